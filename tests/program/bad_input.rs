//! Invalid input: the error is one line that says what is wrong, and nothing is lost or overwritten.

use std::fs;
use std::process::Command;

use super::{Place, SMALL, check_line, check_refusal, checkpoint, column, contents, text};
use crescendo::data::ImageShape;
use flate2::write::{GzEncoder, ZlibEncoder};

/// A way to damage a file.
type Damage = fn(&mut Vec<u8>);

const CHECKPOINT: &str = "run/weights/epoch-0001.safetensors";

#[test]
fn damaged_batch_files_are_named() {
    let place = Place::new();
    place.run("data export shapes:50,10 good");
    let damages: [(&str, Damage, &str); 5] = [
        ("data_batch_2.bin", |bytes| bytes.truncate(3072), "is 3072 bytes, not a multiple of 3073"),
        (
            "data_batch_3.bin",
            |bytes| bytes[2 * 3073] = 10,
            "record 2 (the first is 0) has label 10",
        ),
        ("data_batch_4.bin", |bytes| bytes.insert(0, 0), "not a multiple of 3073"),
        ("test_batch.bin", Vec::clear, "is empty"),
        ("batches.meta.txt", |bytes| bytes.fill(0xff), "is not text"),
    ];
    for (name, damage, problem) in damages {
        let folder = place.path("bad");
        fs::create_dir(&folder).unwrap();
        for (path, mut bytes) in contents(&place.path("good")) {
            if path.ends_with(name) {
                damage(&mut bytes);
            }
            fs::write(folder.join(path.file_name().unwrap()), bytes).unwrap();
        }
        for command in ["data info bad", "data export bad copy", "train quick --data bad"] {
            place.refuse_saying(
                1,
                command,
                &[&format!("bad/{name}: "), problem, "download it again"],
            );
        }
        fs::remove_dir_all(folder).unwrap();
    }
    fs::remove_file(place.path("good/data_batch_5.bin")).unwrap();
    place.refuse_saying(1, "train quick --data good", &["good/data_batch_5.bin: is missing"]);
    assert!(!place.path("runs").exists() && !place.path("copy").exists());
}

/// An archive with one file in it.
fn archive(entry: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let mut header = tar::Header::new_gnu();
    // `set_path` refuses the paths that these tests need.
    header.as_old_mut().name[..entry.len()].copy_from_slice(entry.as_bytes());
    header.set_size(content.len() as u64);
    header.set_cksum();
    tar.append(&header, content).unwrap();
    tar.into_inner().unwrap().finish().unwrap()
}

#[test]
fn archives_with_paths_outside_their_folder_are_refused() {
    let place = Place::new();
    let outside = place.path("outside.bin");
    for entry in ["../outside.bin", "cifar-10-batches-bin/../../outside.bin", "/outside.bin"] {
        fs::write(place.path("a.tar.gz"), archive(entry, &[7; 3073])).unwrap();
        for command in ["data info a.tar.gz", "train quick --data a.tar.gz"] {
            place.refuse_saying(1, command, &["a.tar.gz: its entry", entry, "do not trust"]);
        }
    }
    assert!(!outside.exists() && !place.path("runs").exists());
    let whole = archive("cifar-10-batches-bin/data_batch_1.bin", &[7; 3073]);
    for (content, problem) in [
        (&whole[..whole.len() / 2], "damaged or truncated"),
        (&whole, "data_batch_2.bin: is missing"),
        (b"hello", "neither a folder nor a .tar.gz"),
    ] {
        fs::write(place.path("a.tar.gz"), content).unwrap();
        place.refuse_saying(1, "data info a.tar.gz", &["a.tar.gz", problem]);
    }
}

#[test]
fn checkpoints_of_another_network_are_refused() {
    let place = Place::with_run("--epochs 1");
    let tensor = "the tensor start_layer.0.weight has the shape [4, 3, 3, 3]";
    let deeper = "--set network.blocks=[2,1,1] --data shapes:144,100 --set network.widths=[4,8,8]";
    for (command, parts) in [
        (
            format!("train quick --data shapes:144,100 --init {CHECKPOINT}"),
            [tensor, "checkpoint of"],
        ),
        (format!("train quick {deeper} --init {CHECKPOINT}"), ["is missing", "checkpoint of"]),
        (format!("evaluate {CHECKPOINT} --recipe quick"), ["numbers, but its network", "--recipe"]),
        (format!("predict {CHECKPOINT} {CHECKPOINT} --recipe quick"), ["its network", "--recipe"]),
    ] {
        place.refuse_saying(1, &command, &[CHECKPOINT, parts[0], parts[1]]);
    }
    // A smaller network, of which the checkpoint has most tensors.
    let own = "base = \"quick\"\n[network]\nblocks = [1]\nwidths = [4]\nhead = { pool = 32 }\n";
    fs::write(place.path("own.toml"), own).unwrap();
    let command = format!("evaluate {CHECKPOINT} --recipe own.toml --data shapes:144,100");
    place.refuse_saying(1, &command, &[CHECKPOINT, "--recipe"]);
    assert!(!place.path("runs").exists());
}

#[test]
fn folders_that_cannot_be_created_are_named() {
    let place = Place::with_run("--epochs 0");
    fs::write(place.path("file"), "kept").unwrap();
    let mut nowhere = vec!["file/x", "file/x/y"];
    if cfg!(target_os = "linux") {
        nowhere.extend(["/proc/x", "/dev/null/x"]);
    }
    for path in nowhere {
        place.refuse_saying(1, &format!("train {SMALL} --out {path}"), &["cannot create", path]);
        place.refuse_saying(
            1,
            &format!("data export shapes:10,10 {path}"),
            &["cannot create", path],
        );
        place.refuse_saying(1, &format!("data fetch --dir {path}"), &["cannot create", path]);
    }
    fs::write(place.path("image.npy"), array("|u1", "(0, 3072)", 0)).unwrap();
    let command = "predict run/weights/epoch-0000.safetensors image.npy --out file/p.npy";
    place.refuse_saying(1, command, &["cannot write file/p.npy"]);
    assert_eq!(place.read("file"), "kept");
}

#[test]
fn nothing_is_overwritten() {
    let place = Place::with_run("--epochs 1 --log-steps");
    place.run("data export shapes:10,10 set");
    fs::create_dir(place.path("empty")).unwrap();
    fs::write(place.path("image.npy"), array("|u1", "(2, 3072)", 2 * ImageShape::CIFAR.elements()))
        .unwrap();
    let before = contents(place.folder());
    for path in ["run", "set", "empty", "image.npy", "run/../run"] {
        let parts = [path, "already exists, and nothing is overwritten"];
        place.refuse_saying(1, &format!("train {SMALL} --out {path}"), &parts);
        place.refuse_saying(1, &format!("data export shapes:10,10 {path}"), &parts);
    }
    for path in ["image.npy", "./image.npy", CHECKPOINT] {
        let command = format!("predict {CHECKPOINT} image.npy --out {path}");
        place.refuse_saying(1, &command, &[path, "would be overwritten", "--out"]);
    }
    // The log is not truncated before it is certain that the run can be resumed.
    let log = fs::read(place.path("run/log.txt")).unwrap();
    for (code, change) in [
        (1, "--epochs 2 --data shapes:301,100"),
        (1, "--epochs 2 --data nowhere"),
        (2, "--epochs 2 --set train.seed=5"),
        (2, "--epochs 2 --set optimizer.learning_rate=-1"),
        (2, "--epochs 2 --threads 100000"),
    ] {
        place.refuse(code, &format!("train --resume run {change}"));
        assert_eq!(fs::read(place.path("run/log.txt")).unwrap(), log);
    }
    assert!(contents(place.folder()) == before);
}

/// A PNG with this size in its header, and `rows` as pixels.
fn png(width: u32, height: u32, bits: u8, rows: &[u8]) -> Vec<u8> {
    let chunk = |name: &[u8; 4], content: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(name);
        crc.update(content);
        let length = (content.len() as u32).to_be_bytes();
        [&length, name, content, &crc.sum().to_be_bytes()].concat()
    };
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[bits, 0, 0, 0, 0]].concat();
    let mut pixels = ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut pixels, rows).unwrap();
    let pixels = pixels.finish().unwrap();
    [
        &b"\x89PNG\r\n\x1a\n"[..],
        &chunk(b"IHDR", &header),
        &chunk(b"IDAT", &pixels),
        &chunk(b"IEND", b""),
    ]
    .concat()
}

#[test]
fn invalid_and_too_large_images_are_refused() {
    let place = Place::with_run("--epochs 0");
    let predict = "predict run/weights/epoch-0000.safetensors";
    // A valid and small file with one bit per pixel, too large only when it is decoded.
    let bomb = png(10_000, 8_000, 1, &[0; 1_251 * 8_000]);
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    let small = png(32, 32, 8, &[0; 33 * 32]);
    let cut = &small[..small.len() - 20];
    for (name, content, problem) in [
        ("bomb.png", &bomb[..], "has 10000x8000 pixels: give an image of at most 50 million"),
        ("claim.png", &png(60_000, 60_000, 8, &[0; 9]), "has 60000x60000 pixels"),
        ("claim.jpg", &png(u32::MAX >> 1, u32::MAX >> 1, 8, &[0; 9]), "give a PNG, JPEG"),
        ("none.png", &png(0, 0, 8, &[]), "give a PNG, JPEG"),
        ("cut.png", cut, "cannot be read as an image"),
        ("empty.png", b"", "cannot be read as an image"),
        ("text.jpg", b"<html>", "cannot be read as an image"),
        ("begun.jpg", b"\xff\xd8\xff\xe0", "cannot be read as an image"),
        ("text", b"hello", "give a PNG, JPEG, WebP, BMP or GIF file"),
    ] {
        fs::write(place.path(name), content).unwrap();
        let command = format!("{predict} {name} --out p.npy");
        place.refuse_saying(1, &command, &[&format!("{name}: "), problem]);
    }
    place.refuse_saying(1, &format!("{predict} nowhere.png"), &["cannot read nowhere.png"]);
    place.refuse_saying(1, &format!("{predict} run/state"), &["run/state: has no images"]);
    assert!(!place.path("p.npy").exists());
    fs::write(place.path("small.png"), &small).unwrap();
    assert!(place.run(&format!("{predict} small.png")).starts_with("small.png: "));
}

/// A .npy file with this type and shape in its header, and `bytes` bytes of data.
fn array(kind: &str, shape: &str, bytes: usize) -> Vec<u8> {
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &vec![7; bytes]].concat()
}

#[test]
fn npy_files_of_another_type_or_shape_are_refused() {
    let place = Place::with_run("--epochs 0");
    let two = 2 * ImageShape::CIFAR.elements();
    let mut fortran = array("|u1", "(2, 3072)", two);
    super::replace(&mut fortran, "False", "True ");
    let nested = [&b"\x93NUMPY\x02\x00\x00\x00\x10\x00"[..], &[b'('; 1 << 20]].concat();
    for (content, problem) in [
        (array("<f8", "(2, 3072)", 8 * two), "holds '<f8', not uint8"),
        (array("|i1", "(2, 3072)", two), "holds '|i1', not uint8"),
        (array("|O", "(2, 3072)", two), "holds '|O', not uint8"),
        (array("|u1", "(2, 32, 32, 3)", two), "has the shape (2, 32, 32, 3)"),
        (array("|u1", "(6144,)", two), "has the shape (6144,)"),
        (array("|u1", "(2, 3072)", two - 1), "has a header for 2 images, but ends before"),
        (array("|u1", "(2, 3072)", 100), "has a header for 2 images, but only "),
        (array("|u1", "(1000000000000, 3072)", two), "has a header for 1000000000000 images"),
        (array("|u1", "(-1, 3072)", two), "has the shape (-1, 3072)"),
        (fortran, "is in Fortran order"),
        (nested, "has a header that is too long"),
        (b"hello world".to_vec(), "is not a .npy file"),
        (Vec::new(), "is not a .npy file"),
    ] {
        fs::write(place.path("x.npy"), content).unwrap();
        let command = "predict run/weights/epoch-0000.safetensors x.npy --out p.npy";
        place.refuse_saying(1, command, &["x.npy: ", problem, "expected uint8 of shape (N, 3072)"]);
    }
    assert!(!place.path("p.npy").exists());
}

/// The program with its address space limited to `kib` KiB.
fn limited(place: &Place, kib: u32, arguments: &str) -> Command {
    let program = place.command(arguments);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {kib}; exec \"$0\" \"$@\"")]);
    command.arg(program.get_program()).args(program.get_args()).current_dir(place.folder());
    command
}

#[cfg(target_os = "linux")]
#[test]
fn a_batch_that_does_not_fit_is_refused_with_the_largest_that_fits() {
    let place = Place::new();
    let train = |batch: usize, limit: u32| {
        let arguments = format!(
            "train quick --data shapes:3000,10 --set network.widths=[4,8,8] --set \
             batch.policy=fixed --set batch.size={batch} --threads 1 --epochs 1 --set \
             train.max_steps=1 --out run-{limit}"
        );
        (limited(&place, limit, &arguments).output().unwrap(), arguments)
    };
    let largest = |batch: usize, limit: u32| -> Option<usize> {
        let (output, arguments) = train(batch, limit);
        if output.status.success() {
            return None;
        }
        let complaint = check_refusal(&output, 1, &arguments);
        check_line(&complaint, &[&format!("a batch of {batch} needs"), "GiB", "batch.size"]);
        let (_, rest) = complaint.split_once("the largest batch that fits is ").unwrap();
        Some(rest.split(':').next().unwrap().parse().unwrap())
    };
    for limit in [500_000, 600_000] {
        let fits = largest(3_000, limit).expect("3000 images fit");
        assert!((200..2_500).contains(&fits), "{fits}");
        let again = largest(fits + fits / 10, limit).expect("a tenth more does not fit");
        assert!(again.abs_diff(fits) <= fits / 50 + 1, "{again} and {fits}");
        assert!(!place.path(&format!("run-{limit}")).exists(), "the folder is made too early");
        // The batch size in the error does fit, and the run can be resumed with it.
        assert_eq!(largest(fits, limit), None);
        let again = format!("train --resume run-{limit}");
        let output = limited(&place, limit, &again).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let (output, arguments) = train(100, 200_000);
    check_line(&check_refusal(&output, 1, &arguments), &["not even a batch of one image fits"]);
}

#[test]
fn unknown_recipes_and_keys_are_refused_with_the_most_similar_name() {
    let place = Place::new();
    fs::write(place.path("own.toml"), "[train]\nepoch = 3\n").unwrap();
    fs::write(place.path("familiar.toml"), "lr = 0.1\n").unwrap();
    fs::write(place.path("broken.toml"), "[train]\nepochs = = 3\n").unwrap();
    fs::write(place.path("text.toml"), [0xff; 9]).unwrap();
    for command in ["train", "plan", "recipes"] {
        let say = |recipe: &str, parts: &[&str]| {
            place.refuse_saying(2, &format!("{command} {recipe}"), parts);
        };
        say("nonsense", &["there is no recipe nonsense", "TOML", "report, original, quick"]);
        say("reprot", &["there is no recipe reprot (is it report?)"]);
        say("own.toml", &["own.toml: there is no key train.epoch; the nearest is train.epochs"]);
        say("familiar.toml", &["familiar.toml: there is no key lr; write optimizer.learning_rate"]);
        say("broken.toml", &["broken.toml is not valid TOML: line 2: "]);
        let folder = format!("{command} .");
        place.refuse_saying(1, &folder, &["cannot read ."]);
        place.refuse_saying(1, &format!("{command} text.toml"), &["cannot read text.toml"]);
    }
    for (change, part) in [
        ("train.epoch=3", "there is no key train.epoch; the nearest is train.epochs"),
        ("epochs=3", "there is no key epochs; the nearest is train.epochs"),
        ("optimiser.learning_rate=3", "the nearest is optimizer.learning_rate"),
        ("network.width=[4]", "the nearest is network.widths"),
        ("train", "train does not change a key: write section.key=value"),
        ("=3", "write section.key=value"),
        ("train=3", "train is a section"),
        ("lr=0.1", "there is no key lr; write optimizer.learning_rate"),
        ("optimizer.lr=0.1", "there is no key optimizer.lr; write optimizer.learning_rate"),
        ("batch_size=64", "there is no key batch_size; write batch.size, with batch.policy=fixed"),
        ("lr_scheduler=cosine", "there is no key lr_scheduler; write schedule.policy"),
        ("optimizer=adam", "optimizer is a section, not a key: write optimizer.kind"),
        ("train.epochs=many", "train.epochs must be a whole number, but it is \"many\""),
        (
            "network.widths=[4,8",
            "network.widths must be a list of whole numbers, one for each stack, such as [64, 128, 256], but it is",
        ),
        ("engine.threads={a=1}", "engine.threads must be a whole number, but it is { a = 1 }"),
    ] {
        place.refuse_saying(2, &format!("train quick --set {change}"), &[part]);
        place.refuse_saying(2, &format!("plan quick --set {change}"), &[part]);
    }
    assert_eq!(fs::read_dir(place.folder()).unwrap().count(), 4, "something was written");
}

#[test]
fn invalid_values_of_recipe_keys_are_refused_by_key() {
    let place = Place::new();
    for change in [
        "train.epochs=-1",
        "train.epochs=4294967295",
        "train.save_every_minutes=-1",
        "train.save_every_minutes=1e300",
        "train.save_every_minutes=nan",
        "train.save_every_minutes=often",
        "train.seed=-1",
        "train.label_smoothing=1.0",
        "optimizer.learning_rate=-0.1",
        "optimizer.learning_rate=nan",
        "optimizer.learning_rate=1e40",
        "optimizer.momentum=1",
        "optimizer.weight_decay=inf",
        "optimizer.kind=adam",
        "batch.size=0",
        "batch.memory_limit=-1",
        "batch.policy=plateau --set batch.factor=1.0",
        "batch.policy=plateau --set batch.factor=nan",
        "batch.policy=plateau --set batch.metric=error",
        "batch.policy=plateau --set batch.metric=validation_loss",
        "batch.policy=plateau --set batch.initial=500 --set batch.max=400",
        "batch.policy=noise_scale --set batch.hysteresis=1.0",
        "batch.policy=from_lr",
        "network.norm.ghost=7",
        "schedule.policy=plateau --set schedule.factor=1.0",
        "schedule.peak=1.0",
        "batch.size=9223372036854775807",
        "batch.steps=[]",
        "batch.steps=[[2,25]]",
        "batch.steps=[[1,25],[1,50]]",
        "batch.steps=[[1,0]]",
        "batch.steps=[[1,9223372036854775807]]",
        "network.blocks=[1,1]",
        "network.blocks=[1000000000000,1,1]",
        "network.widths=[0,4,4]",
        "network.widths=[4294967296,4,4]",
        "network.head.hidden=9223372036854775807",
        "network.head.pool=9",
        "network.classes=1",
        "network.leaky_slope=1",
        "network.norm.eps=0",
        "network.norm.momentum=2",
        "network.activation=swish",
        "data.augment={padding=33,flip=true}",
        "data.augment={padding=4,flip=\"never\"}",
        "data.augment={padding=4,flip=true,cutout=33}",
        "data.border=reflect --set data.augment={padding=32,flip=true}",
        "data.augment=7",
        "data.border=256",
        "data.border=mirror",
        "data.test_shift=32",
        "data.normalize=max",
        "data.validation=-1",
        "engine.threads=9223372036854775807",
    ] {
        let key = change.rsplit(" ").next().unwrap().split("=").next().unwrap();
        place.refuse_saying(2, &format!("train quick --set {change}"), &[key]);
        place.refuse_saying(2, &format!("plan quick --set {change}"), &[key]);
    }
    for (change, part) in [
        ("data.validation=144", "data.validation = 144 leaves nothing to train on"),
        ("network.classes=7", "--set network.classes=10"),
    ] {
        place.refuse_saying(1, &format!("train {SMALL} --set {change}"), &[part]);
    }
    assert_eq!(fs::read_dir(place.folder()).unwrap().count(), 0, "something was written");
}

#[test]
fn missing_folders_and_files_are_named() {
    let place = Place::with_run("--epochs 1");
    fs::create_dir(place.path("folder")).unwrap();
    for path in ["nowhere", "folder", "run/weights", CHECKPOINT] {
        let problem = format!("{path}: is not a run folder");
        place.refuse_saying(1, &format!("train --resume {path}"), &[&problem, "crescendo train"]);
    }
    place.refuse_saying(1, "evaluate folder", &["folder: is not a run folder"]);
    place.refuse_saying(1, "evaluate nowhere", &["cannot read nowhere"]);
    place.refuse_saying(
        1,
        "evaluate run --checkpoints 1,9",
        &["run: has no checkpoint 9", "only 1"],
    );
    let command = format!("evaluate {CHECKPOINT} --checkpoints 1");
    place.refuse_saying(1, &command, &[CHECKPOINT, "is a file"]);
    place.refuse_saying(1, "predict nowhere x.png", &["cannot read nowhere"]);
    place.refuse_saying(1, "evaluate run/recipe.toml", &["run/recipe.toml", "another format"]);
    place.refuse_saying(1, &format!("train {SMALL} --init nowhere"), &["cannot read nowhere"]);
    fs::remove_file(place.path(CHECKPOINT)).unwrap();
    fs::remove_file(place.path("run/weights/last.safetensors")).unwrap();
    place.refuse_saying(1, "evaluate run", &["run: has no checkpoint yet", "train --resume"]);
}

#[test]
fn the_error_for_missing_data_says_how_to_get_it() {
    let place = Place::new();
    let ways = ["--data", "CRESCENDO_DATA", "crescendo data fetch", "--data shapes"];
    place.refuse_saying(1, "train report", &ways);
    place.refuse_saying(1, "train original --epochs 1", &ways);
    place.refuse_saying(1, "train report --data nowhere", &["nowhere: there is no such", "--data"]);
    place.refuse_saying(1, "data info nowhere", &["nowhere: there is no such file or folder"]);
    place.refuse_saying(
        1,
        "train --data shapes:0,5",
        &["shapes:0,5", "for example shapes:500,100"],
    );
    place.refuse_saying(1, "train --data .", &["there is no data set in this folder"]);
    let output = place.command("train report").env("CRESCENDO_DATA", "gone").output().unwrap();
    let complaint = check_refusal(&output, 1, "train report");
    check_line(&complaint, &["gone (from CRESCENDO_DATA): there is no such file or folder"]);
    assert!(!place.path("runs").exists());

    // Data that was moved after the run was started.
    place.run("data export shapes:60,20 set");
    let run = "--set network.widths=[4,4,4] --set batch.steps=[[1,30]] --epochs 1 --out run";
    place.run(&format!("train quick --data set {run}"));
    fs::rename(place.path("set"), place.path("moved")).unwrap();
    for command in ["train --resume run --epochs 2", "evaluate run"] {
        place.refuse_saying(1, command, &["set: there is no such file or folder", "--data"]);
        place.run(&format!("{command} --data moved"));
    }
    assert_eq!(column(&place.read("run/epochs.csv"), "epoch"), ["1", "2"]);
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    let place = Place::new();
    for arguments in [
        "",
        "frobnicate",
        "train --frobnicate",
        "train --epochs many",
        "train --epochs -1",
        "train --seed 9223372036854775808",
        "train --seed",
        "train quick --resume run",
        "train --resume run --seed 1",
        "train --resume run --out other",
        "train --resume run --init x",
        "train quick report",
        "evaluate",
        "evaluate run --checkpoints one",
        "predict file",
        "plan",
        "data",
        "data info",
        "completions",
        "completions csh",
    ] {
        let output = place.command(arguments).output().unwrap();
        let complaint = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "crescendo {arguments}: {complaint}");
        assert!(complaint.contains("Usage: ") || complaint.contains("--help"), "{complaint}");
    }
    assert_eq!(fs::read_dir(place.folder()).unwrap().count(), 0, "something was written");
}

#[test]
fn options_of_other_programs_lead_to_the_key() {
    let place = Place::new();
    for (arguments, tip) in [
        ("train --lr 0.05", "write --set optimizer.learning_rate=0.05"),
        ("train quick --batch-size 64", "write --set batch.policy=fixed --set batch.size=64"),
        ("train --learning-rate=0.1 --epochs 2", "write --set optimizer.learning_rate=0.1"),
        ("train --weight-decay 0.1", "write --set optimizer.weight_decay=0.1"),
        ("train --wd 0.1", "write --set optimizer.weight_decay=0.1"),
        ("train --momentum 0.1", "write --set optimizer.momentum=0.1"),
        ("train --lr-scheduler cosine", "write --set schedule.policy=cosine"),
        ("plan quick --epochs 2", "write --set train.epochs=2"),
        ("compare head --lr 1", "write --set optimizer.learning_rate=1"),
        ("train --num-workers 2", "write --threads 2"),
    ] {
        let complaint = place.refuse(2, arguments);
        assert!(complaint.contains("error: unexpected argument '--"), "{complaint}");
        assert!(complaint.contains(&format!("tip: {tip}")), "{arguments}: {complaint}");
        assert!(complaint.contains("Usage: "), "{complaint}");
    }
    assert_eq!(fs::read_dir(place.folder()).unwrap().count(), 0, "something was written");
}

#[test]
fn invalid_option_values_are_refused_with_the_valid_ones() {
    let place = Place::new();
    for (command, option, values, valid) in [
        ("train", "--epochs", &["x", "-1", "1.5", "1000001"][..], "from 0 to 1000000"),
        (
            "train",
            "--seed",
            &["x", "-1", "9223372036854775808", "99999999999999999999"],
            "from 0 to 9223372036854775807",
        ),
        ("train", "--threads", &["x", "-1", "1025"], "from 0 to 1024"),
        ("evaluate run", "--threads", &["x", "-1", "1025"], "from 0 to 1024"),
        ("predict file x.png", "--threads", &["x", "-1", "1025"], "from 0 to 1024"),
        ("train", "--isa", &["sse"], "auto, avx512, avx2, portable"),
        ("evaluate run", "--checkpoints", &["a", "1,,2", "1,-2", "1000001"], "from 0 to 1000000"),
        ("evaluate run", "--flip", &["maybe", "1"], "true, false"),
        ("evaluate run", "--shift", &["x", "-1", "1.5", "32"], "from 0 to 31"),
        ("evaluate run", "--bn", &["none"], "running, precise, both"),
        ("evaluate run", "--bn-images", &["x", "-1", "0"], "from 1 to 1000000000"),
        ("data info flowers", "--test-split", &["x", "-1", "0", "1", "nan"], "between 0 and 1"),
        ("data export flowers new", "--test-split", &["x", "-1"], "between 0 and 1"),
        ("plan quick", "--images", &["x", "-1", "18446744073709551615"], "from 0 to 1000000000"),
        (
            "compare head",
            "--seeds",
            &["x", "1,-1", "9223372036854775808"],
            "from 0 to 922337203685",
        ),
        ("bench", "--batch", &["x", "-1", "0", "65537"], "from 1 to 65536"),
        ("bench", "--seconds", &["x", "-1", "0", "3601", "nan"], "above 0 and at most 3600"),
    ] {
        for value in values {
            place.refuse_value(&format!("{command} {option} {value}"), valid);
        }
    }
    place.refuse_value("completions csh", "bash, elvish, fish, powershell, zsh");
    // The largest number of epochs is that of recipes.
    place.run("plan quick --set train.epochs=1000000");
    place.refuse_saying(2, "plan quick --set train.epochs=1000001", &["at most 1000000"]);
    assert_eq!(fs::read_dir(place.folder()).unwrap().count(), 0, "something was written");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_or_a_closed_pipe_on_standard_output_does_not_panic() {
    let place = Place::with_run("--epochs 1");
    for command in [
        "plan report",
        "plan report --json",
        "recipes",
        "recipes report",
        "completions bash",
        "data info shapes:10,10",
        "evaluate run",
    ] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = place.command(command).stdout(full).output().unwrap();
        check_line(&check_refusal(&output, 1, command), &["cannot write to the output: No space"]);
        let (reader, closed) = std::io::pipe().unwrap();
        drop(reader);
        let output = place.command(command).stdout(closed).output().unwrap();
        assert!(output.status.success(), "{command}: {}", text(&output.stderr));
    }
    // Training does not fail because its output cannot be printed.
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let command = format!("train {SMALL} --epochs 1 --out other");
    assert!(place.command(&command).stdout(full).status().unwrap().success());
    let weights = |run: &str| fs::read(checkpoint(&place.path(run), 1)).unwrap();
    assert!(weights("other") == weights("run"));
}
