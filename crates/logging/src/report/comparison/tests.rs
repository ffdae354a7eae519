//! Whole pages and plots, made from folders with known results.

use std::fs;
use std::path::Path;

use crescendo_training::{Recipe, Run, Start};
use tempfile::TempDir;

use super::super::forest_plot;
use super::super::tests::check;
use super::*;
use crate::comparison_table::tests::{known, row};

/// The comparison `width` with known results, and runs of two of its arms with these accuracies after two epochs.
fn comparison() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let (record, _) = known(place.path());
    record.write(place.path()).unwrap();
    for (arm, seed, accuracies) in [
        ("width-16", 0, [0.5, 0.80]),
        ("width-16", 1, [0.6, 0.81]),
        ("width-16", 2, [0.7, 0.82]),
        ("width-24", 1, [0.65, 0.815]),
    ] {
        run(&place.path().join(format!("{arm}/seed-{seed}")), accuracies);
    }
    fs::write(place.path().join("width-16/seed-1/report.html"), "").unwrap();
    place
}

fn run(folder: &Path, accuracies: [f64; 2]) {
    let data = crescendo_data::shapes::generate(0, 60, 20);
    let recipe = Recipe::load("quick", &["train.epochs=2", "network.widths=[4, 4, 4]"]).unwrap();
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    Run::create(folder, &Start::new(&recipe, &data, &crescendo_cpu::CpuDevices)).unwrap();
    let [first, second] = accuracies;
    let epochs = format!(
        "epoch,updates,batch_size,learning_rate,train_loss,test_accuracy\n1,8,25,0.1,2,{first}\n2,12,50,0.1,1,{second}\n"
    );
    fs::write(folder.join("epochs.csv"), epochs).unwrap();
}

fn read(place: &TempDir) -> ComparisonData {
    ComparisonData::read(place.path()).unwrap()
}

/// The numbers in the attributes and paths of a tag.
fn numbers(tag: &str) -> Vec<f64> {
    let parts = tag.split(|c: char| !c.is_ascii_digit() && !".-".contains(c));
    parts.filter_map(|part| part.parse().ok()).collect()
}

#[test]
fn a_page_has_the_question_the_verdicts_the_plot_bands_and_runs() {
    let place = comparison();
    let page = render(&read(&place));
    check(&page);
    for part in [
        "<h1>How much accuracy do half as many",
        "Comparison width · 3 arms on shapes",
        "<p>Source: Zagoruyko and Komodakis 2016",
        "7 of 9 runs are finished.",
        "</span> undecided</b> against width-16: width-8, width-24</li>",
        "</span> undecided</b> <i>-2.00 ± 2.48</i></span></td>",
        "</span> worse</b> <i>-2.00 ± 0.25</i></span></td>",
        "data-name=\"against width-16\"",
        "<h2>Differences from width-16</h2>",
        "<h3>Test accuracy</h3>",
        "<h3>Train loss</h3>",
        "Bands: from the lowest to the highest of its seeds.",
        "width-16 81.00% (80.00% to 82.00%)",
        "width-24 81.50%",
        "<summary>7 finished runs</summary>",
        "<td>width-16 / seed 0</td><td>80.00</td>",
        "<a href=\"width-16/seed-1/report.html\">width-16 / seed 1</a>",
        "<code>network.widths=[8, 16, 32]</code>",
        "<dt>width-16</dt><dd>nothing else</dd>",
    ] {
        assert!(page.contains(part), "no {part} in {page}");
    }
    // One line for an arm in each panel, not one for a run.
    let panel = page.split("<h3>Test accuracy</h3>").nth(1).unwrap();
    let panel = panel.split("</figure>").next().unwrap();
    assert_eq!(panel.matches("class=\"line c0\"").count(), 1);
    assert_eq!(panel.matches("class=\"band ").count(), 1);
    // From the highest accuracies back along the lowest, on an axis from 45 to 85 %.
    assert!(
        panel.contains("class=\"band c0\" d=\"M250 112.5L750 22.5L750 37.5L250 262.5Z\""),
        "{panel}"
    );
    // Elsewhere the links lead into the folder.
    let mut elsewhere = read(&place);
    elsewhere.link_from(&place.path().join("width-24/page.html"));
    assert!(render(&elsewhere).contains("<a href=\"../width-16/seed-1/report.html\">"));
}

#[test]
fn results_of_another_kind_have_a_section_of_their_own() {
    let place = comparison();
    let before = render(&read(&place));
    assert!(!before.contains("Other results"));
    // Its run was continued by this version in a folder of its own, beside that of the other version.
    let old = place.path().join("width-24/seed-0");
    run(&old, [0.1, 0.2]);
    let recipe = fs::read_to_string(old.join("recipe.toml")).unwrap();
    let version = format!("version = \"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(recipe.contains(&version));
    fs::write(old.join("recipe.toml"), recipe.replace(&version, "version = \"0.1.0\"")).unwrap();
    fs::write(old.join("report.html"), "").unwrap();
    let this = place.path().join("width-24/seed-0-2");
    run(&this, [0.3, 0.83]);
    fs::write(this.join("report.html"), "").unwrap();
    let (mut record, _) = known(tempfile::tempdir().unwrap().path());
    let mut results = read(&place).results;
    results.add(row("width-24", 0, 0.83, 0.83)).unwrap();
    results.add(Row { version: "0.1.0".into(), ..row("width-24", 0, 0.2, 0.2) }).unwrap();
    let kind = Kind::of(&row("width-24", 0, 0.83, 0.83));
    record.arms.iter_mut().for_each(|arm| arm.kind = Some(kind.clone()));
    record.write(place.path()).unwrap();
    let page = render(&read(&place));
    check(&page);
    let parts: Vec<&str> =
        page.split("<h2>Other results: crescendo 0.1.0 on cpu in f32</h2>").collect();
    let [present, other] = parts[..] else { panic!("{page}") };
    assert!(other.contains("<a href=\"width-24/seed-0/report.html\">width-24 / seed 0</a>"));
    assert!(other.contains("<td>20.00</td>") && !present.contains("<td>20.00</td>"), "{page}");
    assert!(present.contains("<a href=\"width-24/seed-0-2/report.html\">width-24 / seed 0</a>"));
    assert!(present.contains("8 of 9 runs are finished."));
    // The curves are those of the present kind: means of 83.00 and 81.50 %.
    assert!(present.contains("width-24 82.25% (81.50% to 83.00%)"), "{present}");
    assert!(!forest_plot(&[read(&place)]).contains("-60"));
}

#[test]
fn a_new_comparison_and_one_without_a_question_have_pages() {
    let place = tempfile::tempdir().unwrap();
    let (mut record, _) = known(place.path());
    (record.question, record.source) = (None, None);
    fs::remove_file(place.path().join("results.csv")).unwrap();
    record.write(place.path()).unwrap();
    let page = render(&read(&place));
    check(&page);
    assert!(page.contains("<h1>width</h1>") && page.contains("0 of 9 runs are finished."));
    assert!(!page.contains("<svg") && !page.contains("Source:"));
    let svg = forest_plot(&[read(&place)]);
    assert!(svg.contains("width-8: no result yet") && !svg.contains("NaN"), "{svg}");
}

#[test]
fn a_forest_plot_has_the_intervals_worked_out_by_hand() {
    let place = comparison();
    let svg = forest_plot(&[read(&place)]);
    // Of -1, -2 and -3 points: 4.3027 / sqrt(3) = 2.4842 on both sides of -2. Of -2, -2.1 and -1.9: 0.2484.
    for part in [
        "width-8, running statistics of BatchNorm: -2.00 points, 95 % interval from -4.48 to +0.48, undecided",
        "width-8, precise statistics: -2.00 points, 95 % interval from -2.25 to -1.75, worse",
        "width-24, running statistics of BatchNorm: +0.50 points with one seed, undecided",
        ">-2.00 ± 2.48</text>",
        ">+0.50</text>",
    ] {
        assert!(svg.contains(part), "no {part} in {svg}");
    }
    let after = |start: &str| numbers(svg.split(start).nth(1).unwrap().split("/>").next().unwrap());
    let [zero, ..] = after("<path class=\"zero\" d=\"M")[..] else { panic!("{svg}") };
    // The first interval: its width, its ends; the mark of its mean.
    let interval = after("undecided</title>\n<path class=\"c0\" stroke-width=");
    let [_, from, _, to] = interval[..] else { panic!("{interval:?}") };
    let mark = after("undecided</title>\n<path class=\"c0\" stroke-width=\"3\"");
    assert_eq!(mark.len(), 3);
    let unit = (to - from) / (2.0 * 2.4842);
    assert!((from - (zero - 4.4842 * unit)).abs() < 0.2, "{from} {to} {zero}");
    assert!((to - (zero + 0.4842 * unit)).abs() < 0.2, "{from} {to} {zero}");
    let mean = numbers(
        svg.split("stroke-linecap=\"round\" d=\"").nth(2).unwrap().split("/>").next().unwrap(),
    );
    assert!((mean[0] - (zero - 2.0 * unit)).abs() < 0.2, "{mean:?} {zero}");
}
