//! What `plan` says of runs over several ranks.

use serde_json::Value;

use super::{Place, text};

fn plan(place: &Place, arguments: &str) -> Value {
    serde_json::from_str(&place.run(&format!("plan report --json {arguments}"))).unwrap()
}

#[test]
fn ranks_have_the_memory_of_all_of_them_and_send_as_much_for_every_batch() {
    let place = Place::new();
    let part = |plan: &Value| plan["schedule"][3]["part_size"].as_u64().unwrap();
    let one = plan(&place, "--memory 2GiB");
    let four = plan(&place, "--memory 2GiB --ranks 4 --network 1Gbit/s --images-per-second 50");
    assert!(part(&one) < 500 && part(&four) > 2 * part(&one), "{} {}", part(&one), part(&four));
    let rows = four["ranks"].as_array().unwrap();
    let of = |key: &str| rows.iter().map(|row| row[key].as_f64().unwrap()).collect::<Vec<_>>();
    assert_eq!(of("batch_size"), [125.0, 250.0, 500.0, 1000.0]);
    assert_eq!(of("images_of_a_rank"), [32.0, 63.0, 125.0, 250.0]);
    assert!(of("sent_bytes").windows(2).all(|pair| pair[0] == pair[1]));
    assert!(of("efficiency").is_sorted_by(|a, b| a < b), "{:?}", of("efficiency"));
}

#[test]
fn ranks_without_images_are_named() {
    let place = Place::new();
    let said = place.run("plan report --ranks 16 --memory 64GiB");
    assert!(said.contains("Of a batch of 125, only 8 ranks have images."), "{said}");
    assert!(!said.contains("Of a batch of 1000"), "{said}");
    assert!(said.contains("16 ranks, 10 Gbit/s, 20 us:"), "{said}");
    let alone = place.run("plan report --ranks 1 --latency 2.5us --network 100M");
    assert!(alone.contains("1 rank, 0.1 Gbit/s, 2.5 us:"), "{alone}");
}

#[test]
fn networks_without_a_usable_unit_are_refused() {
    let place = Place::new();
    for (option, values, part) in [
        ("--network", &["10", "10GB", "-1G"][..], "bits (not bytes) a second"),
        ("--latency", &["20", "-1us", "1min"][..], "such as 20us"),
    ] {
        for value in values {
            let arguments = format!("plan report --ranks 2 {option} {value}");
            let output = place.command(&arguments).output().unwrap();
            let complaint = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{arguments}: {complaint}");
            assert!(complaint.contains(option) && complaint.contains(part), "{complaint}");
        }
    }
}
