//! Whole pages, from folders made by hand.

use std::fs;
use std::path::Path;

use crescendo_data::ImageShape;
use crescendo_training::events::{EvaluatedSplit, Marks};
use crescendo_training::{Evaluation, Mistake, Recipe, Run, Start, read_record};
use tempfile::TempDir;

use super::evaluations::{Entry, Evaluations};
use super::*;

const HOSTILE: &str = "<script>alert('&\"1')</script>";

const EPOCHS: &str = "epoch,updates,batch_size,learning_rate,train_loss,test_accuracy,seconds,\
                      images_per_second,validation_accuracy,train_accuracy,validation_loss,noise_scale\n\
                      1,8,25,0.1,2.31,,1.5,130.5,0.2,0.15,2.35,\n\
                      2,16,25,0.1,1.92,0.31,1.5,131.5,0.3,0.25,2.05,80.5\n\
                      3,20,50,0.05,1.5,0.4123,1.4,140,0.4,0.45,1.75,120.0\n";

/// A new run's folder; the epochs of [`EPOCHS`] are a part of what it will do.
fn new_run(recipe_name: &str) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let data = crescendo_data::shapes::generate(0, 300, 50);
    let recipe = Recipe::load("quick", &["train.epochs=14", "network.widths=[4, 4, 4]"]).unwrap();
    let start =
        Start { recipe: &recipe, recipe_name, data: &data, data_location: HOSTILE, init: None };
    Run::create(&place.path().join("run"), &start).unwrap();
    place
}

/// A run with everything that a page can show.
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
    let mistake = Mistake {
        index: 7,
        label: 0,
        answer: 1,
        probability: 0.987,
        image: vec![9; ImageShape::CIFAR.elements()],
    };
    let evaluation = Evaluation {
        confusion: vec![vec![3, 1, 0], vec![0, 4, 0], vec![0, 0, 0]],
        loss: 0.512,
        views: 6,
        mistakes: vec![mistake],
    };
    let classes = ["cat", HOSTILE, "empty"].map(String::from);
    for split in [EvaluatedSplit::Test, EvaluatedSplit::Validation] {
        let entry = Entry::new(3, &evaluation, &classes);
        Evaluations::read(&folder).unwrap().keep(&folder, split, entry).unwrap();
    }
    place
}

fn read(place: &TempDir) -> RunData {
    RunData::read(&place.path().join("run")).unwrap()
}

/// Every element is closed, nothing is fetched, nothing is run.
#[track_caller]
fn check(page: &str) {
    assert!(page.starts_with(html::MARKER));
    let lower = page.to_lowercase();
    for word in
        ["<script", "http:", "https:", "@import", "url(", "javascript:", "<iframe", "onload"]
    {
        assert!(!lower.contains(word), "{word}");
    }
    for attribute in ["src=\"", "href=\""] {
        for (at, _) in lower.match_indices(attribute) {
            let value = &lower[at + attribute.len()..];
            assert!(value.starts_with("data:"), "{attribute}{:.40}", value);
        }
    }
    assert!(!lower.contains("src='") && !lower.contains("nan") && !lower.contains("inf\""));
    let (mut open, mut rest) = (Vec::new(), &page[html::MARKER.len()..]);
    while let Some(at) = rest.find('<') {
        let end = rest[at..].find('>').map(|end| at + end).unwrap();
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        let name = tag.split([' ', '/', '\n']).find(|name| !name.is_empty()).unwrap_or_default();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "{tag}");
        } else if !tag.ends_with('/') && !["meta", "link", "img", "br"].contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_page_shows_everything_that_a_run_left() {
    let page = render(&[read(&full_run(HOSTILE))]);
    check(&page);
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
        "train_loss 1.9200, best before 1.9100; 2 epochs without improvement; noise scale 80",
        "0.1 → 0.05",
        "Test set after epoch 3",
        "Held-out images after epoch 3",
        "87.50% of 8 images are right, by the mean of 6 views of each, loss 0.5120",
        "75.0%",
        "<b>cat</b><span>&lt;script&gt;",
        "98.7%",
        "src=\"data:image/bmp;base64,",
        "widths = [",
        "crescendo train --resume ",
    ] {
        assert!(page.contains(part), "no {part}");
    }
    assert_eq!(page.matches("<svg ").count(), 5);
    // Two decisions through all five panels.
    assert_eq!(page.matches("<g class=\"mark ").count(), 10);
    assert!(!page.contains("class=\"line published\""));
}

#[test]
fn the_published_numbers_lie_below_runs_of_the_reports_recipe() {
    for recipe in published::RECIPES {
        let place = full_run(recipe);
        let mut run = read(&place);
        let mut record = read_record(&run.folder).unwrap();
        // A small network on other images is another matter.
        assert!(!run.is_published && !data::is_published(&record));
        record.run.data_name = published::DATA.into();
        assert!(!data::is_published(&record));
        record.recipe.network = Recipe::load::<&str>("report", &[]).unwrap().network;
        assert!(data::is_published(&record));
        run.is_published = true;
        let page = render(&[run]);
        check(&page);
        // Loss and batch size; the first published accuracy is after epoch 30.
        assert_eq!(page.matches("class=\"line published\"").count(), 2);
        assert!(page.contains("published train 2.3110") && page.contains("published 125"));
    }
}

#[test]
fn a_run_without_an_epoch_says_so() {
    let place = new_run("quick");
    let page = render(&[read(&place)]);
    check(&page);
    assert!(page.contains("No epoch is finished yet") && page.contains("<dd>0 of 14</dd>"));
    assert!(!page.contains("<svg"));
    // A table with nothing but its header is no more than that.
    let header = EPOCHS.lines().next().unwrap();
    fs::write(place.path().join("run/epochs.csv"), format!("{header}\n")).unwrap();
    assert_eq!(render(&[read(&place)]), page);
}

#[test]
fn a_run_of_an_older_program_has_the_curves_there_are() {
    let place = new_run("quick");
    let epochs = "epoch,updates,batch_size,learning_rate,train_loss,test_accuracy,seconds,\
                  images_per_second\n1,8,25,0.1,2.31,,1.5,130.5\n2,12,50,0.1,1.92,0.31,1.5,131.5\n";
    fs::write(place.path().join("run/epochs.csv"), epochs).unwrap();
    let page = render(&[read(&place)]);
    check(&page);
    assert_eq!(page.matches("<svg ").count(), 5);
    assert!(page.contains("batch size 25 to 50") && page.contains("not written down"));
    // Two columns are enough.
    fs::write(place.path().join("run/epochs.csv"), "train_loss,epoch\n2.31,1\n").unwrap();
    let page = render(&[read(&place)]);
    check(&page);
    assert_eq!(page.matches("<svg ").count(), 1);
}

#[test]
fn many_runs_are_drawn_over_each_other_in_their_groups_colours() {
    let places = ["quick", HOSTILE, "report"].map(full_run);
    let mut runs = places.each_ref().map(read);
    (runs[1].group, runs[2].group) = (1, 1);
    runs[0].label = "grown".to_owned();
    for run in &mut runs[1..] {
        run.label = HOSTILE.to_owned();
    }
    let page = render(&runs);
    check(&page);
    for title in ["Train loss", "Validation loss", "Test accuracy", "Validation accuracy"] {
        assert!(page.contains(&format!("<h3>{title}</h3>")), "no {title}");
    }
    assert_eq!(page.matches("<svg ").count(), 8);
    assert_eq!(page.matches("class=\"line c0\"").count(), 8);
    assert_eq!(page.matches("class=\"line c1\"").count(), 16);
    // Two groups in the legend, three runs in the table.
    assert_eq!(page.matches("class=\"key c").count(), 2 + 3);
    assert!(page.contains("<td>1.5000</td>") && page.contains("<td>4.4</td>"));
    check(&render(&[]));
}

#[test]
fn many_classes_are_a_list_of_what_is_taken_for_what() {
    let place = full_run("quick");
    let folder = place.path().join("run");
    let classes: Vec<String> = (0..30).map(|class| format!("class {class}")).collect();
    let mut confusion = vec![vec![0; 30]; 30];
    (confusion[3][4], confusion[5][6]) = (7, 9);
    let evaluation = Evaluation { confusion, loss: f64::NAN, ..Evaluation::default() };
    let entry = Entry::new(2, &evaluation, &classes);
    Evaluations::default().keep(&folder, EvaluatedSplit::Test, entry).unwrap();
    let page = render(&[read(&place)]);
    check(&page);
    let (first, second) =
        (page.find("<td>9</td><td>class 5</td><td>class 6</td>"), page.find("<td>7</td>"));
    assert!(first.is_some() && first < second);
}

#[test]
fn damage_is_named_and_stops_no_run() {
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
    Page::default().event(&started).unwrap();
    let page = fs::read_to_string(folder.join(NAME)).unwrap();
    check(&page);
    assert!(page.contains("line 2 has &quot;&lt;b&gt;&quot;"), "{page}");
    let complaint = RunData::read(Path::new("nowhere")).unwrap_err().to_string();
    assert!(complaint.starts_with("nowhere: is no run's folder"), "{complaint}");
}

#[test]
fn only_a_page_is_written_over() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("page.html");
    write(&path, &html::document("one", "")).unwrap();
    write(&path, &html::document("two", "")).unwrap();
    assert!(fs::read_to_string(&path).unwrap().contains("<title>two</title>"));
    for other in ["", "<!doctype html>\n", "notes"] {
        fs::write(&path, other).unwrap();
        let complaint = write(&path, &html::document("three", "")).unwrap_err().to_string();
        assert!(complaint.contains("page.html: is there already"), "{complaint}");
        assert_eq!(fs::read_to_string(&path).unwrap(), other);
    }
    assert!(write(place.path(), "").is_err());
}
