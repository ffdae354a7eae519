//! Runs of a program that uses the library, with data, a network and a policy of its own: what the program `crescendo`
//! does with them.

use crescendo::data::{DataSet, shapes};
use crescendo::devices;
use crescendo::logging::{Observers, usual_observers};
use crescendo::network::{Init, NetworkBuilder, Operation, Shape};
use crescendo::training::events::{Event, Observer};
use crescendo::training::policy::{Choice, EpochStart, Policy};
use crescendo::training::recipe::BatchPolicyKind;
use crescendo::training::{Error, Outcome, Recipe, Run, Start};

use super::{Place, column};

/// One image more in each epoch's batches.
struct OneMore;

impl Policy for OneMore {
    fn decide(&mut self, epoch: &EpochStart<'_>) -> Result<Choice, Error> {
        Ok(Choice::new(10 + epoch.epoch as usize, 1.0, "one more"))
    }
}

/// Stops after so many updates.
struct StopAt(u64, u64);

impl Observer for StopAt {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        if let Event::Step(step) = event {
            self.1 = step.update;
        }
        Ok(())
    }

    fn wants_stop(&self) -> bool {
        self.1 >= self.0
    }
}

/// A run in the folder `run`, stopped after 3 updates and resumed to its end if its policy is custom.
fn place_with(policy: BatchPolicyKind) -> Place {
    let place = Place::new();
    let set = shapes::generate(0, 40, 20);
    let data = DataSet::from_arrays("own", set.train.pixels, set.train.labels, set.classes)
        .unwrap()
        .with_test(set.test.pixels, set.test.labels)
        .unwrap();
    let mut network = NetworkBuilder::new(Shape::Maps { channels: 3, height: 32, width: 32 });
    let images = network.images();
    let x = network.add("pool", Operation::AveragePool { size: 4 }, [images]);
    let x = network.add("flatten", Operation::Flatten, [x]);
    let linear = Operation::Linear { outputs: 10, bias: true, init: Init::Uniform };
    network.add("logits", linear, [x]);
    let recipe = Recipe::builder("quick")
        .unwrap()
        .custom_network(&network.finish())
        .unwrap()
        .train(|train| train.epochs = 2)
        .batch(|batch| (batch.policy, batch.initial, batch.size) = (policy, 8, 10))
        .engine(|engine| engine.device = crescendo::network::DeviceKind::Cpu)
        .build()
        .unwrap();
    let start = Start::new(&recipe, &data, devices());
    let folder = place.path("run");
    drop(Run::create(&folder, &start).unwrap());
    let train = |stop_at: u64| {
        let mut run = Run::open(&folder).unwrap();
        if policy == BatchPolicyKind::Custom {
            run.set_policy(OneMore).unwrap();
        }
        let (mut usual, mut stop) = (usual_observers(), StopAt(stop_at, 0));
        let mut observers = Observers(vec![&mut usual, &mut stop]);
        run.train(devices(), &data, &mut observers, &false.into()).unwrap()
    };
    assert_eq!(train(3), Outcome::Interrupted);
    // Its data were arrays in memory, and its policy may be its own.
    let log = place.read("run/log.txt");
    assert!(log.contains("The program that made this run resumes it"), "{log}");
    assert!(!log.contains("--resume"), "{log}");
    if policy == BatchPolicyKind::Custom {
        assert_eq!(train(u64::MAX), Outcome::Finished);
    }
    place
}

#[test]
fn a_run_with_a_policy_of_its_own_is_evaluated_and_used_but_not_resumed() {
    let place = place_with(BatchPolicyKind::Custom);
    assert_eq!(column(&place.read("run/epochs.csv"), "batch_size"), ["11", "12"]);
    assert!(place.read("run/log.txt").contains("one more"));
    let accuracy = |text: &str| text.lines().nth(1).map(str::to_owned);
    let evaluated = place.run("evaluate run --data shapes:40,20");
    let file = place.run("evaluate run/weights/epoch-0002.safetensors --data shapes:40,20");
    place.refuse_saying(1, "evaluate run", &["arrays in memory", "--data"]);
    assert_eq!(accuracy(&evaluated), accuracy(&file), "{evaluated}{file}");
    image::RgbImage::from_pixel(32, 32, image::Rgb([9, 90, 200]))
        .save(place.path("a.png"))
        .unwrap();
    assert!(place.run("predict run a.png").starts_with("a.png: "));
    assert!(place.run("plan run/recipe.toml --images 40").contains("depends on measurements"));
    // Its end is no obstacle to more epochs, but the rule is not there.
    place.refuse_saying(
        1,
        "train --resume run --epochs 3 --data shapes:40,20",
        &["batch.policy is custom", "only that program can train it"],
    );
    place.refuse_saying(
        2,
        "train run/recipe.toml --data shapes:40,20 --out other",
        &["batch.policy = custom is for programs that use Crescendo as a library"],
    );
    let comparison = "recipe = \"run/recipe.toml\"\nbase = \"one\"\nseeds = [0]\n\
                      [[arm]]\nname = \"one\"\n[[arm]]\nname = \"two\"\nset = [\"batch.initial=10\"]\n";
    std::fs::write(place.path("two.toml"), comparison).unwrap();
    place.refuse_saying(
        2,
        "compare two.toml --data shapes:40,20 --out other",
        &["two.toml: arm one: batch.policy = custom is for programs that use Crescendo as a library"],
    );
    place.refuse_saying(
        2,
        "bench run/recipe.toml",
        &["batch.policy = custom is for programs that use Crescendo as a library"],
    );
    assert!(!place.path("other").exists());
}

#[test]
fn a_run_with_a_network_of_its_own_is_resumed_and_its_recipe_used_again() {
    let place = place_with(BatchPolicyKind::Fixed);
    place.run("train --resume run --data shapes:40,20");
    assert_eq!(column(&place.read("run/epochs.csv"), "epoch"), ["1", "2"]);
    // The same run, all of it by the program.
    place.run("train run/recipe.toml --data shapes:40,20 --out again");
    let weights = |run: &str| {
        let bytes = std::fs::read(place.path(&format!("{run}/weights/epoch-0002.safetensors")));
        let bytes = bytes.unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut all: Vec<_> =
            tensors.iter().map(|(name, one)| (name.to_owned(), one.data().to_vec())).collect();
        all.sort();
        all
    };
    assert_eq!(weights("run"), weights("again"));
    assert!(place.run("plan run/recipe.toml").contains("logits"));
    place.refuse_saying(
        2,
        "train run/recipe.toml --data shapes:40,20 --out third --set network.family=resnet",
        &["network.operations belongs to network.family = custom"],
    );
    place.refuse_saying(
        2,
        "train quick --data shapes:40,20 --out third --set network.family=custom",
        &["network.operations must list the operations"],
    );
}
