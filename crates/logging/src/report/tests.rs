//! Whole reports, made from folders with known contents.

use std::fs;
use std::path::Path;

use crescendo_cpu::CpuDevices;
use crescendo_data::ImageShape;
use crescendo_training::events::{EvaluatedSplit, Marks};
use crescendo_training::{
    CalibrationBin, Evaluation, Misclassified, Recipe, Run, Start, read_record,
};
use tempfile::TempDir;

use super::*;
use crate::formats::csv;
use crate::formats::evaluation_json::{EvaluationFile, EvaluationRecord};

const HOSTILE: &str = "<script>alert('&\"1')</script>";

const EPOCHS: &str = "epoch,updates,batch_size,learning_rate,train_loss,test_accuracy,seconds,\
                      images_per_second,validation_accuracy,train_accuracy,validation_loss,noise_scale\n\
                      1,8,25,0.1,2.31,,1.5,130.5,0.2,0.15,2.35,\n\
                      2,16,25,0.1,1.92,0.31,1.5,131.5,0.3,0.25,2.05,80.5\n\
                      3,20,50,0.05,1.5,0.4123,1.4,140,0.4,0.45,1.75,120.0\n";

/// The folder of a new run, which is to train for more epochs than [`EPOCHS`] has.
fn new_run(recipe_name: &str) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let data = crescendo_data::shapes::generate(0, 300, 50);
    let recipe = Recipe::load("quick", &["train.epochs=14", "network.widths=[4, 4, 4]"]).unwrap();
    let start = Start {
        recipe: &recipe,
        recipe_name,
        data: &data,
        data_location: HOSTILE,
        init: None,
        devices: &CpuDevices,
    };
    Run::create(&place.path().join("run"), &start).unwrap();
    place
}

/// A run with everything that a report can show.
fn full_run(recipe_name: &str) -> TempDir {
    let place = new_run(recipe_name);
    let folder = place.path().join("run");
    fs::write(folder.join("epochs.csv"), EPOCHS).unwrap();
    let decisions = format!(
        "epoch,updates,what,from,to,reason,metric,value,best,epochs_without_improvement,noise_scale\n\
         3,16,batch_size,25,50,{},train_loss,1.92,1.91,2,80.5\n\
         3,16,learning_rate,0.1,0.05,with it,,,,,\n",
        csv::quote(&format!("no gain, {HOSTILE}"))
    );
    fs::write(folder.join("decisions.csv"), decisions).unwrap();
    let mut image = Misclassified::default();
    image.index = 7;
    image.label = 0;
    image.prediction = 1;
    image.probability = 0.987;
    image.image = vec![9; ImageShape::CIFAR.elements()];
    let mut evaluation = Evaluation::default();
    evaluation.confusion = vec![vec![3, 1, 0], vec![0, 4, 0], vec![0, 0, 0]];
    evaluation.loss = 0.512;
    evaluation.views = 6;
    image.file = Some(format!("cat/{HOSTILE}.png"));
    evaluation.misclassified = vec![image];
    evaluation.calibration = vec![CalibrationBin::default(); 15];
    let bin = &mut evaluation.calibration[13];
    (bin.images, bin.correct, bin.confidence_sum) = (8, 7, 7.2);
    let classes = ["cat", HOSTILE, "empty"].map(String::from);
    for split in [EvaluatedSplit::Test, EvaluatedSplit::Validation] {
        let record = EvaluationRecord::new(3, &evaluation, &classes);
        EvaluationFile::read(&folder).unwrap().update(&folder, split, record).unwrap();
    }
    place
}

fn read(place: &TempDir) -> RunData {
    RunData::read(&place.path().join("run")).unwrap()
}

/// Checks that nothing is loaded from elsewhere, there are no scripts, and every element is closed.
#[track_caller]
pub fn check(report: &str) {
    assert!(report.starts_with(html::MARKER));
    let lower = report.to_lowercase();
    for word in
        ["<script", "http:", "https:", "@import", "url(", "javascript:", "<iframe", "onload"]
    {
        assert!(!lower.contains(word), "{word}");
    }
    for (at, _) in lower.match_indices("src=\"") {
        assert!(lower[at..].starts_with("src=\"data:"), "{:.40}", &lower[at..]);
    }
    for (at, _) in lower.match_indices(" href=\"") {
        let link = lower[at + " href=\"".len()..].split('"').next().unwrap();
        let is_file = link.ends_with(".csv") || link.ends_with(".safetensors");
        let is_file = is_file
            || link.ends_with("log.txt")
            || link.ends_with("results.svg")
            || link.ends_with("report.html");
        assert!(link.starts_with("data:") || is_file && !link.contains(':'), "{link}");
    }
    // Images may have any letters.
    let text: String =
        lower.split(";base64,").map(|part| part.split_once('"').map_or(part, |p| p.1)).collect();
    assert!(!text.contains("src='") && !text.contains("nan") && !text.contains("inf\""));
    check_elements(&report[html::MARKER.len()..]);
}

/// Checks that every element is closed.
#[track_caller]
fn check_elements(text: &str) {
    let (mut open, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find('<') {
        let end = rest[at..].find('>').map(|end| at + end).unwrap();
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        let name = tag.split([' ', '/', '\n']).find(|name| !name.is_empty()).unwrap_or_default();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "{tag}");
        } else if !tag.ends_with('/') && !["meta", "link", "img", "br", "input"].contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_report_shows_everything_in_a_runs_folder() {
    let report = render(&[read(&full_run(HOSTILE))]);
    check(&report);
    for part in [
        "<h3>Loss</h3>",
        "<h3>Accuracy</h3>",
        "<h3>Batch size, images</h3>",
        "<h3>Learning rate</h3>",
        "<h3>Throughput, images/s</h3>",
        "noise scale 80.5",
        "validation 1.7500",
        "<dd>3 of 14</dd>",
        "<dd>41.23%</dd>",
        "From epoch 3: batch size 25 to 50\nno gain, &lt;script&gt;",
        "train loss 1.9200, best before 1.9100; 2 epochs without improvement; noise scale 80",
        "0.1 → 0.05",
        "Test set after epoch 3",
        "Validation set after epoch 3",
        "Accuracy 87.50% on 8 images, averaged over 6 views of each, loss 0.5120",
        "75.0%",
        "<b>cat</b><span>&lt;script&gt;",
        "<small>cat/&lt;script&gt;",
        "balanced accuracy 87.50%, calibration error (ECE) 2.50%",
        "98.7%",
        "src=\"data:image/bmp;base64,",
        "widths = [",
        "crescendo train --resume ",
    ] {
        assert!(report.contains(part), "no {part}");
    }
    // Five panels, and the calibration of two splits.
    assert_eq!(report.matches("<svg ").count(), 5 + 2);
    // Two decisions through all five panels.
    assert_eq!(report.matches("<path class=\"mark ").count(), 10);
    assert!(!report.contains("class=\"line paper\""));
}

#[test]
fn the_head_says_what_the_run_is_and_links_its_files() {
    let place = full_run("quick");
    let folder = place.path().join("run");
    Run::open(&folder).unwrap().set_command("crescendo train --data '<x>'").unwrap();
    fs::write(folder.join("weights/last.safetensors"), "").unwrap();
    let report = render(&[read(&place)]);
    check(&report);
    for part in [
        "<dt>Network</dt><dd>resnet, widths 4, 4, 4, blocks 1, 1, 1: ",
        " parameters</dd>",
        "<dt>Data</dt><dd>shapes: 300 training and 50 test images of 10 classes</dd>",
        "<dt>Seed</dt><dd>0</dd>",
        "<dt>Device</dt>",
        " UTC</dd>",
        "<dt>Version</dt><dd>Crescendo ",
        "<a href=\"weights/last.safetensors\">last weights</a>, <a href=\"epochs.csv\">epochs.csv</a>",
        "<span>--data</span> <span>&#39;&lt;x&gt;&#39;</span>",
        "measured on augmented images while the weights still change",
    ] {
        assert!(report.contains(part), "no {part}");
    }
    assert!(!report.contains("best.safetensors") && !report.contains("steps.csv"));
    let mut run = read(&place);
    run.link_from(&place.path().join("all.html"));
    assert!(render(&[run]).contains("<a href=\"run/epochs.csv\">"));
}

#[test]
fn a_run_that_stopped_early_is_finished() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("run");
    let data = crescendo_data::shapes::generate(0, 60, 20);
    // The accuracy of a network that hardly learns stays the same.
    let changes = [
        "train.epochs=9",
        "network.widths=[4, 4, 4]",
        "data.validation=20",
        "train.evaluate_every=1",
        "train.stop_after=1",
        "optimizer.learning_rate=1e-9",
        "batch.steps=[[1, 20]]",
    ];
    let recipe = Recipe::load("quick", &changes).unwrap();
    let mut run = Run::create(&folder, &Start::new(&recipe, &data, &CpuDevices)).unwrap();
    let mut observer = crate::RunFolderLogger::default();
    run.train(&CpuDevices, &data, &mut observer, &false.into()).unwrap();
    let report = fs::read_to_string(folder.join(FILE_NAME)).unwrap();
    check(&report);
    assert!(report.contains("run · finished</p>") && !report.contains("<dd>9 of 9</dd>"));
    assert!(report.contains("The program that made this run resumes it"));
    assert_eq!(report, render(&[RunData::read(&folder).unwrap()]));
}

#[test]
fn images_and_filters_are_shown() {
    let place = full_run("quick");
    let report = render(&[read(&place)]);
    assert_eq!(report.matches("alt=\"training image of ").count(), 12);
    assert!(report.contains("The 4 filters of 3 x 3 pixels"));
    assert!(report.contains(" before the first update. ") && report.contains("alt=\"filter 4\""));
    // A run of an earlier version, or a copy without its state, has a report without them.
    let folder = place.path().join("run");
    for file in ["run.json", "samples.json", "state/state.safetensors"] {
        fs::remove_file(folder.join(file)).unwrap();
    }
    let report = render(&[read(&place)]);
    check(&report);
    assert!(report.contains("<dd>shapes: 10 classes</dd>"));
    assert!(!report.contains("training image of") && !report.contains("alt=\"filter"));
}

#[test]
fn the_report_reloads_itself_while_the_run_is_training() {
    let place = full_run("quick");
    let folder = place.path().join("run");
    let page = || fs::read_to_string(folder.join(FILE_NAME)).unwrap();
    let reloads = || page().contains("<meta http-equiv=\"refresh\" content=\"30\">");
    let started = || Event::Started {
        folder: folder.clone(),
        description: String::new(),
        resumed_at: None,
        marks: Marks::new(),
        log_steps: false,
    };
    let mut observer = HtmlReport::default();
    observer.event(&started()).unwrap();
    assert!(reloads());
    // Who looks at the page of a run that was killed sees it.
    let said = page();
    let (_, written) = said.split_once("<p class=\"note\">Written at ").unwrap();
    let moment = written.get(..24).unwrap();
    assert!(moment.contains(", ") && moment.ends_with(" UTC"), "{moment}");
    assert!(said.contains("<a href=\"#resume\">") && said.contains("<section id=\"resume\">"));
    observer.event(&Event::Interrupted { folder: folder.clone(), own: false }).unwrap();
    assert!(!page().contains("refresh"));
    assert_eq!(page(), render(&[read(&place)]));
    // A run that fails has no last event.
    observer.event(&started()).unwrap();
    assert!(reloads());
    drop(observer);
    assert!(!page().contains("refresh"));
}

#[test]
fn the_picture_of_a_run_stands_alone() {
    let place = full_run(HOSTILE);
    let run = read(&place);
    write_picture(&run).unwrap();
    let svg = fs::read_to_string(run.folder.join("results.svg")).unwrap();
    assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1120 "));
    for part in [
        "script&gt; on shapes</text>",
        "test accuracy 41.23 % · validation accuracy 40.00 % · 3 of 14 epochs · 4 s",
        "prefers-color-scheme: dark",
        ">Accuracy</text>",
        ">Loss</text>",
        ">validation</text>",
        "<path class=\"line c2\"",
        ">epoch</text>",
    ] {
        assert!(svg.contains(part), "no {part}");
    }
    assert!(!svg.contains("<script") && !svg.contains("NaN") && !svg.contains("<input"));
    check_elements(&svg);
    assert!(render(&[run]).contains("<a href=\"results.svg\">"));
    // Before the first epoch there is nothing to draw.
    let place = new_run("quick");
    write_picture(&read(&place)).unwrap();
    assert!(!place.path().join("run/results.svg").exists());
}

#[test]
fn the_report_of_a_long_run_with_many_classes_is_small() {
    let place = full_run("quick");
    let folder = place.path().join("run");
    let mut epochs = format!("{},test_loss\n", EPOCHS.lines().next().unwrap());
    for epoch in 1..=90 {
        epochs += &format!(
            "{epoch},{},125,0.1,1.2345,0.8765,123.456,405.1,0.8123,0.7123,1.3456,812.3,1.2345\n",
            400 * epoch
        );
    }
    fs::write(folder.join("epochs.csv"), epochs).unwrap();
    let classes: Vec<String> = (0..200).map(|class| format!("a class's name {class}")).collect();
    let mut image = Misclassified::default();
    image.image = vec![9; ImageShape::CIFAR.elements()];
    let mut evaluation = Evaluation::default();
    evaluation.confusion = vec![vec![7; 200]; 200];
    evaluation.misclassified = vec![image; 32];
    for split in [EvaluatedSplit::Test, EvaluatedSplit::Validation] {
        let record = EvaluationRecord::new(90, &evaluation, &classes);
        EvaluationFile::read(&folder).unwrap().update(&folder, split, record).unwrap();
    }
    let report = render(&[read(&place)]);
    check(&report);
    assert!(report.len() < 1_000_000, "{}", report.len());
}

#[test]
fn the_papers_numbers_are_drawn_below_runs_of_its_recipe() {
    for recipe in paper::RECIPES {
        let place = full_run(recipe);
        let mut run = read(&place);
        let mut record = read_record(&run.folder).unwrap();
        // Neither the network nor the data are those of the paper.
        assert!(!run.follows_paper && !run_data::follows_paper(&record));
        record.run.data_name = paper::DATA.into();
        assert!(!run_data::follows_paper(&record));
        record.recipe.network = Recipe::load::<&str>("report", &[]).unwrap().network;
        assert!(run_data::follows_paper(&record));
        run.follows_paper = true;
        let report = render(&[run]);
        check(&report);
        // Loss and batch size; the paper's first accuracy is after epoch 30.
        assert_eq!(report.matches("class=\"line paper\"").count(), 2);
        assert!(report.contains("paper train 2.3110") && report.contains("paper 125"));
    }
}

#[test]
fn a_run_without_an_epoch_says_so() {
    let place = new_run("quick");
    let report = render(&[read(&place)]);
    check(&report);
    assert!(report.contains("No epoch is finished yet") && report.contains("<dd>0 of 14</dd>"));
    assert!(!report.contains("<svg"));
    // A file with nothing but its header is the same.
    let header = EPOCHS.lines().next().unwrap();
    fs::write(place.path().join("run/epochs.csv"), format!("{header}\n")).unwrap();
    assert!(render(&[read(&place)]).contains("No epoch is finished yet"));
}

#[test]
fn a_run_of_an_earlier_version_has_the_curves_of_its_columns() {
    let place = new_run("quick");
    let epochs = "epoch,updates,batch_size,learning_rate,train_loss,test_accuracy,seconds,\
                  images_per_second\n1,8,25,0.1,2.31,,1.5,130.5\n2,12,50,0.1,1.92,0.31,1.5,131.5\n";
    fs::write(place.path().join("run/epochs.csv"), epochs).unwrap();
    let report = render(&[read(&place)]);
    check(&report);
    assert_eq!(report.matches("<svg ").count(), 5);
    assert!(report.contains("batch size 25 to 50") && report.contains("not recorded"));
    // Two columns are enough.
    fs::write(place.path().join("run/epochs.csv"), "train_loss,epoch\n2.31,1\n").unwrap();
    let report = render(&[read(&place)]);
    check(&report);
    assert_eq!(report.matches("<svg ").count(), 1);
}

#[test]
fn several_runs_are_drawn_in_the_colours_of_their_groups() {
    let places = ["quick", HOSTILE, "report"].map(full_run);
    let mut runs = places.each_ref().map(read);
    (runs[1].group, runs[2].group) = (1, 1);
    runs[0].label = "grown".to_owned();
    for run in &mut runs[1..] {
        run.label = HOSTILE.to_owned();
    }
    let report = render(&runs);
    check(&report);
    for title in ["Train loss", "Validation loss", "Test accuracy", "Validation accuracy"] {
        assert!(report.contains(&format!("<h3>{title}</h3>")), "no {title}");
    }
    assert_eq!(report.matches("<svg ").count(), 8);
    assert_eq!(report.matches("class=\"line c0\"").count(), 8);
    assert_eq!(report.matches("class=\"line c1\"").count(), 16);
    // Two groups in the legend, three runs in the table.
    assert_eq!(report.matches("class=\"key c").count(), 2 + 3);
    assert!(report.contains("<td>1.5000</td>") && report.contains("<td>4 s</td>"));
    // The accuracies come first. A name leads to the run's own report, if it has one.
    assert!(report.contains("<tr><th scope=\"col\">run</th><th scope=\"col\">test accuracy</th>"));
    assert!(!report.contains("report.html"));
    fs::write(runs[0].folder.join(FILE_NAME), "").unwrap();
    runs[0].links = Some("a%20run/".to_owned());
    assert!(render(&runs).contains("<a href=\"a%20run/report.html\">grown</a>"));
    check(&render(&[]));
}

#[test]
fn with_many_classes_the_confusions_are_a_list() {
    let place = full_run("quick");
    let folder = place.path().join("run");
    let classes: Vec<String> = (0..30).map(|class| format!("class {class}")).collect();
    let mut confusion = vec![vec![0; 30]; 30];
    (confusion[3][4], confusion[5][6]) = (7, 9);
    let mut evaluation = Evaluation::default();
    evaluation.confusion = confusion;
    evaluation.loss = f64::NAN;
    let record = EvaluationRecord::new(2, &evaluation, &classes);
    EvaluationFile::default().update(&folder, EvaluatedSplit::Test, record).unwrap();
    let report = render(&[read(&place)]);
    check(&report);
    let (first, second) =
        (report.find("<td>9</td><td>class 5</td><td>class 6</td>"), report.find("<td>7</td>"));
    assert!(first.is_some() && first < second);
}

#[test]
fn a_report_of_90_epochs_and_200_classes_is_small() {
    let place = full_run("quick");
    let folder = place.path().join("run");
    let rows = (1..=90).map(|epoch| {
        format!(
            "{epoch},{},125,0.1,1.234567,0.5123,77.142,648.2,0.5,0.5,1.234567,812.3\n",
            400 * epoch
        )
    });
    let header = EPOCHS.lines().next().unwrap();
    fs::write(folder.join("epochs.csv"), format!("{header}\n{}", rows.collect::<String>()))
        .unwrap();
    let classes: Vec<String> =
        (0..200).map(|class| format!("a class with number {class}")).collect();
    let mut image = Misclassified::default();
    image.image = vec![9; ImageShape::CIFAR.elements()];
    image.file = Some("a folder/".repeat(10));
    let mut evaluation = Evaluation::default();
    evaluation.confusion = vec![vec![12_345; 200]; 200];
    evaluation.misclassified = vec![image; 24];
    for split in [EvaluatedSplit::Test, EvaluatedSplit::Validation] {
        let record = EvaluationRecord::new(90, &evaluation, &classes);
        EvaluationFile::read(&folder).unwrap().update(&folder, split, record).unwrap();
    }
    let report = render(&[read(&place)]);
    check(&report);
    assert!(report.contains("a class with number 199</th>"));
    assert!(report.len() < 1_000_000, "{}", report.len());
}

#[test]
fn damaged_files_are_named_and_do_not_stop_a_run() {
    let place = full_run("quick");
    let folder = place.path().join("run");
    fs::write(folder.join("epochs.csv"), "epoch,train_loss\n1,<b>\n").unwrap();
    let complaint = RunData::read(&folder).unwrap_err().to_string();
    assert!(complaint.contains("epochs.csv: line 2 has \"<b>\" as train_loss"), "{complaint}");
    let started = Event::Started {
        folder: folder.clone(),
        description: String::new(),
        resumed_at: None,
        marks: Marks::new(),
        log_steps: false,
    };
    HtmlReport::default().event(&started).unwrap();
    let report = fs::read_to_string(folder.join(FILE_NAME)).unwrap();
    check(&report);
    assert!(report.contains("line 2 has &quot;&lt;b&gt;&quot;"), "{report}");
    let complaint = RunData::read(Path::new("nowhere")).unwrap_err().to_string();
    assert!(complaint.starts_with("nowhere: is not a run folder"), "{complaint}");
}

#[test]
fn only_a_report_is_replaced() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("other.html");
    write(&path, &html::document("one", "", None)).unwrap();
    write(&path, &html::document("two", "", None)).unwrap();
    assert!(fs::read_to_string(&path).unwrap().contains("<title>two</title>"));
    for other in ["", "<!doctype html>\n", "notes"] {
        fs::write(&path, other).unwrap();
        let complaint = write(&path, &html::document("three", "", None)).unwrap_err().to_string();
        assert!(complaint.contains("other.html: already exists"), "{complaint}");
        assert_eq!(fs::read_to_string(&path).unwrap(), other);
    }
    assert!(write(place.path(), "").is_err());
}
