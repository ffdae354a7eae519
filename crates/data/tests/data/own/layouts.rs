use std::fs;

use crescendo_data::{ImageFolder, ValidationChoice, split_validation, summarize};

use super::{check_files, counts, fill, folder, labels, png, read, refused, write};

const PASSED: &str = "passed over (empty, a run's or another program's)";

#[test]
fn validation_images_can_have_a_folder_of_their_own() {
    for [train, validation, test] in [
        ["train", "valid", "test"],
        ["Training", "VAL", "testing"],
        ["TRAIN", "validation", "Test"],
    ] {
        let folders = [train, validation, test]
            .map(|split| [format!("{split}/cat"), format!("{split}/dog")])
            .concat();
        let root = folder(&folders.iter().map(|folder| &**folder).collect::<Vec<_>>(), 3);
        fs::remove_file(root.path().join(format!("{test}/dog/0.png"))).unwrap();
        let set = read(root.path());
        assert_eq!(counts(&set), [6, 6, 5]);
        assert_eq!(set.format, "images with separate folders of validation and test images");
        assert_eq!(labels(&set, &set.validation)[&202], "cat");
        assert_eq!(labels(&set, &set.test)[&502], "dog");
        assert_eq!(set.warnings, [""; 0]);
        // The validation images belong to what identifies the data.
        fs::remove_file(root.path().join(format!("{validation}/dog/0.png"))).unwrap();
        assert_ne!(read(root.path()).fingerprint(), set.fingerprint());
        write(root.path(), &format!("{validation}/cow/0.png"), png(999));
        refused(root.path(), &["cow: has validation images of the class cow"]);
    }
}

#[test]
fn without_labelled_test_images_those_for_validation_are_the_test_images() {
    let root = folder(&["train/cat", "train/dog", "val/cat", "val/dog"], 4);
    for index in 0..3 {
        write(root.path(), &format!("test/{index}.png"), png(900 + index));
    }
    let set = read(root.path());
    assert_eq!(counts(&set), [8, 0, 8]);
    assert_eq!(
        set.warnings,
        [
            "the folder test is passed over: its images have no labels, as they are in no folders of classes",
            "the images in val are the test images: there are no others with labels",
        ]
    );
}

#[test]
fn a_doubled_folder_is_entered() {
    let root = folder(&["flowers/flowers/rose", "flowers/flowers/tulip"], 5);
    write(root.path(), "__MACOSX/flowers/._rose", "x");
    let set = read(root.path());
    assert_eq!(
        (set.classes.clone(), counts(&set)),
        (vec!["rose".into(), "tulip".into()], [8, 0, 2])
    );
    assert_eq!(set.warnings, [format!("1 folder is {PASSED}: __MACOSX")]);
    let root = folder(&["x/train/train/cat", "x/train/train/dog", "x/test/test/dog"], 5);
    assert_eq!(counts(&read(root.path())), [10, 0, 5]);
}

#[test]
fn a_level_above_the_classes_is_an_error() {
    for folders in [
        &[
            "seg_train/seg_train/forest",
            "seg_train/seg_train/sea",
            "seg_test/seg_test/forest",
            "seg_test/seg_test/sea",
            "seg_pred/seg_pred",
        ][..],
        &["photos/rose", "photos/tulip", "more/rose", "more/tulip"],
        &["train/a/rose", "train/a/tulip", "train/b/rose", "train/b/tulip", "test/rose"],
    ] {
        let root = folder(folders, 3);
        refused(
            root.path(),
            &["all have folders of the same names", "not clear which are the classes", "--data"],
        );
    }
    // A level inside each class is a part of it.
    let root = folder(&["cat/images", "dog/images", "cow/images", "cow/more"], 5);
    assert_eq!(read(root.path()).classes, ["cat", "cow", "dog"]);
}

#[test]
fn folders_of_other_programs_runs_and_empty_ones_are_passed_over() {
    let root = folder(&["rose", "tulip"], 5);
    for other in ["rose/@eaDir", "rose/__pycache__", "__MACOSX/rose", "tulip/.ipynb_checkpoints"] {
        fill(root.path(), &[other], 3);
    }
    for run in ["run", "runs/flowers-1", "rose/run-2"] {
        write(root.path(), &format!("{run}/recipe.toml"), "");
        write(root.path(), &format!("{run}/weights/epoch-0001.safetensors"), "");
    }
    write(root.path(), "runs/results.csv", "");
    fs::create_dir_all(root.path().join("empty/inside")).unwrap();
    fs::create_dir_all(root.path().join("tulip/empty")).unwrap();
    let set = read(root.path());
    assert_eq!(
        (set.classes.clone(), counts(&set)),
        (vec!["rose".into(), "tulip".into()], [8, 0, 2])
    );
    assert_eq!(set.warnings, [format!("8 folders are {PASSED}, such as __MACOSX")]);
    // Nothing says that a run should be removed.
    let split = ImageFolder::new(root.path(), 0.5).unwrap().open().unwrap();
    assert_eq!(split.train.len() + split.test.len(), 10);
    assert!(!summarize(&set).problems.iter().any(|problem| problem.contains("remove")));
}

#[test]
fn tiny_imagenet_is_read() {
    let root = folder(
        &["tiny/train/n01/images", "tiny/train/n02/images", "tiny/val/images", "tiny/test/images"],
        4,
    );
    write(root.path(), "tiny/train/n01/n01_boxes.txt", "0.png\t0\t0\t1\t1");
    write(root.path(), "tiny/wnids.txt", "n01\nn02\n");
    let annotations = "0.png\tn02\t0\t32\t44\t62\n1.png\tn01\t0\t0\t1\t1\n2.png\tn02\t0\t0\t1\t1\ngone.png\tn01\t0\t0\t1\t1\n";
    write(root.path(), "tiny/val/val_annotations.txt", annotations);
    let set = read(root.path());
    assert_eq!((set.classes.clone(), counts(&set)), (vec!["n01".into(), "n02".into()], [8, 0, 3]));
    let expected = [(200, "n02"), (201, "n01"), (202, "n02")];
    assert_eq!(
        labels(&set, &set.test),
        expected.map(|(image, class)| (image, class.to_owned())).into()
    );
    assert_eq!(
        set.warnings,
        [
            "the folder test is passed over: its images have no labels, as they are in no folders of classes",
            "the images in tiny/val are the test images: there are no others with labels",
            "2 files are ignored (not an image), such as tiny/train/n01/n01_boxes.txt",
            "1 image is ignored (without a label): tiny/val/images/3.png",
            "1 label is ignored (of an image that is not there): tiny/val/images/gone.png",
        ]
    );
    write(root.path(), "tiny/val/val_annotations.txt", "0.png n02");
    refused(root.path(), &["val_annotations.txt: line 1 is not a file's name and a class"]);
}

#[test]
fn kaggles_cifar_10_is_read() {
    for train in ["train", "train/train"] {
        let root = folder(&[train], 20);
        let labels_of = |index: u16| ["frog", "truck"][usize::from(index % 2)];
        let lines: String =
            (0..20).map(|index| format!("{index},{}\n", labels_of(index))).collect();
        write(root.path(), "trainLabels.csv", format!("id,label\n{lines}"));
        write(root.path(), "sampleSubmission.csv", "id,label\n1,cat\n");
        write(root.path(), "test/1.png", png(999));
        let set = read(root.path());
        assert_eq!(
            (set.classes.clone(), counts(&set)),
            (vec!["frog".into(), "truck".into()], [16, 0, 4])
        );
        for split in [&set.train, &set.test] {
            assert!(labels(&set, split).iter().all(|(image, class)| class == labels_of(*image)));
        }
        assert_eq!(set.warnings.len(), 2, "{:?}", set.warnings);
    }
}

#[test]
fn two_spellings_of_a_name_are_one_class() {
    let (composed, decomposed) = ("caf\u{e9}", "cafe\u{301}");
    let root = folder(
        &[&format!("train/{composed}"), "train/dog", &format!("test/{decomposed}"), "test/dog"],
        3,
    );
    let set = read(root.path());
    assert_eq!(
        (set.classes.clone(), counts(&set)),
        (vec![composed.to_owned(), "dog".into()], [6, 0, 6])
    );
    fill(
        root.path(),
        &["train/dog", "train/dog", "train/dog", "train/dog", &format!("train/{decomposed}")],
        3,
    );
    let set = read(root.path());
    assert_eq!((set.classes.len(), counts(&set)), (2, [9, 0, 6]));
    assert!(set.warnings[0].contains("two Unicode spellings"), "{:?}", set.warnings);
    // The same images become test images whatever the spelling.
    let split = |name: &str| read(folder(&[name, "dog"], 9).path()).fingerprint();
    assert_eq!(split(composed), split(decomposed));
}

#[test]
fn an_image_in_two_classes_is_a_label_conflict() {
    let root = folder(&["rose", "tulip"], 5);
    write(root.path(), "tulip/copy.png", png(3));
    let set = read(root.path());
    let conflicts: Vec<_> = set.warnings.iter().filter(|w| w.contains("label conflict")).collect();
    assert_eq!(conflicts.len(), 1);
    for part in
        ["1 image is also in another class", "rose/3.png in rose", "tulip/copy.png in tulip"]
    {
        assert!(conflicts[0].contains(part), "{conflicts:?}");
    }
    let problems = summarize(&set).problems;
    assert_eq!(problems.iter().filter(|p| p.contains("label conflict")).count(), 1);
}

#[test]
fn images_know_their_files_in_every_split() {
    let folders = ["train/cat", "train/dog/inner", "val/cat", "test/dog"];
    let root = folder(&folders, 6);
    let set = read(root.path());
    assert_eq!(counts(&set), [12, 6, 6]);
    for split in [&set.train, &set.validation, &set.test] {
        check_files(split, &folders);
    }
    let (rest, validation) = split_validation(&set.train, 4, ValidationChoice::Stratified);
    assert_eq!((rest.len(), validation.len()), (8, 4));
    check_files(&rest, &folders);
    check_files(&validation, &folders);

    let folders = ["cat", "dog"];
    let root = folder(&folders, 10);
    let set = read(root.path());
    assert_eq!(counts(&set), [16, 0, 4]);
    check_files(&set.test, &folders);
    check_files(&set.without_split().test, &folders);
}
