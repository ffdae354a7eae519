//! A trained network as a PyTorch module: `model.safetensors`, `model.py` and `README.md` in a folder.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crescendo_data::{Normalization, Sizing};
use crescendo_network::{ActivationKind, Family, HeadActivation, NetworkConfig};
use crescendo_training::{Error, TrainedNetwork, write_atomically};

/// What follows the settings in `model.py`.
const RESNET: &str = include_str!("resnet.py");
const AIRBENCH: &str = include_str!("airbench.py");
/// What loads the weights and makes the input, but for the normalisation.
const END: &str = include_str!("end.py");

/// Writes the new folder `folder` with `model.safetensors` (the weights), `model.py` (a module that needs `torch` and
/// `safetensors` only, and computes one view of an image) and `README.md`. `result` is what the readme says of the
/// network's accuracy.
///
/// # Errors
/// If the network is of the family `custom`, or the folder exists or cannot be written.
///
/// # Example
///
/// ```
/// use crescendo_cpu::CpuDevices;
/// use crescendo_export::write_pytorch;
/// use crescendo_training::checkpoint::{self, Checkpoint};
/// use crescendo_training::{Recipe, Run, Start, TrainedNetwork};
///
/// let data = crescendo_data::shapes::generate(0, 100, 50);
/// let recipe = Recipe::load("quick", &["train.epochs=0", "network.widths=[4, 4, 4]"])?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().join("run");
/// let (recipe_name, data_location) = ("quick", "shapes:100,50");
/// let (init, devices) = (None, &CpuDevices);
/// let start = Start { recipe: &recipe, recipe_name, data: &data, data_location, init, devices };
/// Run::create(&folder, &start)?.train(devices, &data, &mut (), &false.into())?;
///
/// let checkpoint = Checkpoint::open(&checkpoint::path(&folder, 0))?;
/// let network = TrainedNetwork::new(&checkpoint, None)?;
/// write_pytorch(&folder.join("pytorch"), &network, None)?;
/// let module = std::fs::read_to_string(folder.join("pytorch/model.py")).unwrap();
/// assert!(module.contains("WIDTHS = [4, 4, 4]"));
/// # Ok::<(), crescendo_training::Error>(())
/// ```
pub fn write_pytorch(
    folder: &Path,
    network: &TrainedNetwork,
    result: Option<&str>,
) -> Result<(), Error> {
    let layers = match network.recipe.network.family {
        Family::Resnet => RESNET,
        Family::Airbench => AIRBENCH,
        Family::Custom => {
            let problem = "has a network of the family custom, and model.py is written for resnet and \
                           airbench only: export it as ONNX";
            return Err(Error::bad(&network.path, problem));
        }
    };
    if folder.exists() {
        let problem = "already exists, and nothing is overwritten: choose another folder";
        return Err(Error::bad(folder, problem));
    }
    let settings = settings(network).ok_or_else(|| {
        let problem = "has an activation function that model.py does not know: export it as ONNX";
        Error::bad(&network.path, problem)
    })?;
    fs::create_dir_all(folder).map_err(|error| Error::io("create", folder, error))?;
    let module = [&settings, layers, END, normalization(&network.normalization)].concat();
    let write = |name: &str, text: &str| {
        write_atomically(&folder.join(name), |file| file.write_all(text.as_bytes()))
    };
    network
        .save(&folder.join("model.safetensors"))
        .and_then(|()| write("model.py", &module))
        .and_then(|()| write("README.md", &readme(network, result)))
        // A part of it is of no use, and would prevent another attempt.
        .inspect_err(|_| drop(fs::remove_dir_all(folder)))
}

/// The beginning of `model.py`: imports, and what is particular to this network; `None` if it has an unknown activation
/// function.
fn settings(network: &TrainedNetwork) -> Option<String> {
    let config = &network.recipe.network;
    let NetworkConfig { blocks, widths, whitening, norm, head, .. } = config;
    let names = network.classes.iter().map(|name| format!("    {},\n", text(name)));
    let weights = network.graph.parameters.iter();
    let mut linear = weights.filter(|parameter| parameter.shape.len() == 2);
    let features = linear.next().map_or(0, |weight| weight.shape[1]);
    let activation = activation(config)?;
    let mut settings = vec![
        ("BLOCKS", format!("{blocks:?}")),
        ("WIDTHS", format!("{widths:?}")),
        ("BIAS", python(config.bias).to_owned()),
        ("NORM_EPS", format!("{:?}", norm.eps)),
        ("NORM_MOMENTUM", format!("{:?}", norm.new_weight())),
        ("FEATURES", features.to_string()),
        ("POOL", head.pool.to_string()),
        ("LOGIT_SCALE", format!("{:?}", head.scale)),
        ("activation", activation.clone()),
    ];
    match config.family {
        Family::Airbench => settings.push(("WHITENING", whitening.to_string())),
        _ => {
            let hidden = match head.activation {
                HeadActivation::Sigmoid => "nn.Sigmoid()".to_owned(),
                HeadActivation::Same => activation,
                _ => return None,
            };
            settings.extend([("HIDDEN", head.hidden.to_string()), ("hidden_activation", hidden)]);
        }
    }
    if let Normalization::Dataset { mean, deviation } = network.normalization {
        // What has no deviation is divided by 1/255.
        let deviation = deviation.map(|one| if one > 0.0 { one } else { 1.0 / 255.0 });
        let tensor = |values: [f64; 3]| format!("torch.tensor({values:?}).view(3, 1, 1)");
        settings.extend([("MEAN", tensor(mean)), ("DEVIATION", tensor(deviation))]);
    }
    settings.push(("PAD", python(network.sizing == Sizing::Pad).to_owned()));
    let mut start = format!(
        "\"\"\"A network that Crescendo {} trained. README.md has an example.\"\"\"\n\n\
         import torch\nimport torch.nn.functional as F\nfrom safetensors.torch import load_file\n\
         from torch import nn\n\nCLASSES = [\n{}]\n",
        env!("CARGO_PKG_VERSION"),
        names.collect::<String>()
    );
    for (name, value) in settings {
        writeln!(start, "{name} = {value}").expect("strings take any text");
    }
    Some(start)
}

/// The last lines of `preprocess`.
fn normalization(normalization: &Normalization) -> &'static str {
    match normalization {
        Normalization::None => "    return x / 255\n",
        Normalization::Dataset { .. } => "    return (x / 255 - MEAN) / DEVIATION\n",
        Normalization::PerImage => {
            "    x = x - x.mean((2, 3), keepdim=True)\n    \
             deviation = x.square().mean((2, 3), keepdim=True).sqrt()\n    \
             return x / torch.where(deviation > 0, deviation, 1.0)\n"
        }
    }
}

fn activation(config: &NetworkConfig) -> Option<String> {
    Some(match config.activation {
        ActivationKind::LeakyRelu => format!("nn.LeakyReLU({:?})", config.leaky_slope),
        ActivationKind::Relu => "nn.ReLU()".into(),
        ActivationKind::Elu => "nn.ELU()".into(),
        ActivationKind::Gelu => "nn.GELU()".into(),
        ActivationKind::Silu => "nn.SiLU()".into(),
        _ => return None,
    })
}

fn python(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// A string of Python: JSON's strings are some.
fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn readme(network: &TrainedNetwork, result: Option<&str>) -> String {
    let about = &network.about;
    let facts = [
        ("Result", result.map(str::to_owned)),
        ("Data", network.data.clone()),
        ("Weights", about.epoch.map(|epoch| format!("of epoch {epoch}"))),
        ("Training loss", about.loss.map(|loss| format!("{loss:.4}"))),
    ];
    let facts = facts.into_iter().filter_map(|(name, fact)| Some((name, fact?)));
    let facts: String = facts.map(|(name, fact)| format!("- {name}: {fact}\n")).collect();
    let (classes, recipe) = (network.classes.join("\n"), network.metadata().remove("recipe"));
    format!(
        "# A network trained by Crescendo\n\n{facts}- Parameters: {}\n\n\
         `model.py` needs `torch` and `safetensors`. In this folder, with `pillow` and `numpy` too:\n\n\
         ```python\n\
         import model, numpy, PIL.Image\n\
         images = numpy.array(PIL.Image.open(\"cat.png\").convert(\"RGB\"))[None]\n\
         print(model.CLASSES[model.load()(model.preprocess(images)).argmax(1).item()])\n\
         ```\n\n\
         ## Classes\n\nIn the order of the logits:\n\n```text\n{classes}\n```\n\n\
         ## Recipe\n\n```toml\n{}\n```\n",
        network.graph.parameter_count(),
        recipe.unwrap_or_default().trim_end(),
    )
}
