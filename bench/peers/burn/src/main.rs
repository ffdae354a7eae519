//! Trains and runs the report's network in Burn, on its CPU backend `flex`, with random data.
//!
//! It is driven by lines on standard input, as `bench/run.py` says, and answers each with a line
//! of JSON.

use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::time::Instant;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::pool::{AvgPool2d, AvgPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::activation::{leaky_relu, sigmoid};
use burn::tensor::{Device, Distribution, Int, Tensor};
use serde_json::{Value, json};

const BURN: &str = "0.22.1"; // as Cargo.toml pins it
/// The report's 17,392,394 and the running statistics, which Burn counts as well.
const PARAMETERS: usize = 17_392_394 + 2 * 5_824;
const WIDTHS: [usize; 3] = [64, 128, 256];
const BLOCKS: usize = 6;
const SLOPE: f64 = 0.01;
const WARM_UP: usize = 3;

fn conv(inputs: usize, outputs: usize, kernel: usize, stride: usize, device: &Device) -> Conv2d {
    let pad = kernel / 2;
    Conv2dConfig::new([inputs, outputs], [kernel, kernel])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
        .init(device)
}

fn norm(channels: usize, device: &Device) -> BatchNorm {
    BatchNormConfig::new(channels)
        .with_epsilon(1e-5)
        .with_momentum(0.997)
        .init(device)
}

#[derive(Module, Debug)]
struct Block {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    shortcut: Option<Shortcut>,
}

#[derive(Module, Debug)]
struct Shortcut {
    conv: Conv2d,
    bn: BatchNorm,
}

impl Block {
    fn new(inputs: usize, outputs: usize, stride: usize, device: &Device) -> Self {
        Self {
            conv1: conv(inputs, outputs, 3, stride, device),
            bn1: norm(outputs, device),
            conv2: conv(outputs, outputs, 3, 1, device),
            bn2: norm(outputs, device),
            shortcut: (stride != 1 || inputs != outputs).then(|| Shortcut {
                conv: conv(inputs, outputs, 1, stride, device),
                bn: norm(outputs, device),
            }),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = leaky_relu(self.bn1.forward(self.conv1.forward(x.clone())), SLOPE);
        let y = self.bn2.forward(self.conv2.forward(y));
        let x = match &self.shortcut {
            Some(shortcut) => shortcut.bn.forward(shortcut.conv.forward(x)),
            None => x,
        };
        leaky_relu(y + x, SLOPE)
    }
}

#[derive(Module, Debug)]
struct Network {
    start: Conv2d,
    start_bn: BatchNorm,
    blocks: Vec<Block>,
    pool: AvgPool2d,
    fc1: Linear,
    fc2: Linear,
}

impl Network {
    fn new(device: &Device) -> Self {
        let mut blocks = Vec::new();
        let mut inputs = WIDTHS[0];
        for (stack, outputs) in WIDTHS.into_iter().enumerate() {
            for block in 0..BLOCKS {
                let stride = if stack > 0 && block == 0 { 2 } else { 1 };
                blocks.push(Block::new(inputs, outputs, stride, device));
                inputs = outputs;
            }
        }
        Self {
            start: conv(3, WIDTHS[0], 3, 1, device),
            start_bn: norm(WIDTHS[0], device),
            blocks,
            pool: AvgPool2dConfig::new([2, 2]).init(),
            fc1: LinearConfig::new(inputs * 4 * 4, 2048).init(device),
            fc2: LinearConfig::new(2048, 10).init(device),
        }
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let mut x = leaky_relu(self.start_bn.forward(self.start.forward(images)), SLOPE);
        for block in &self.blocks {
            x = block.forward(x);
        }
        let x = self.pool.forward(x).flatten(1, 3);
        self.fc2.forward(sigmoid(self.fc1.forward(x)))
    }
}

struct Options {
    batch: usize,
    infer_batch: usize,
    threads: usize,
}

impl Options {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            batch: 125,
            infer_batch: 250,
            threads: std::thread::available_parallelism()?.get(),
        };
        let mut words = std::env::args().skip(1);
        while let Some(name) = words.next() {
            let value = words.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number = value
                .parse()
                .ok()
                .filter(|&n| n > 0)
                .ok_or_else(|| format!("{name} wants a positive number, not {value:?}"))?;
            match name.as_str() {
                "--batch" => options.batch = number,
                "--infer-batch" => options.infer_batch = number,
                "--threads" => options.threads = number,
                _ => return Err(format!("unknown option {name}").into()),
            }
        }
        Ok(options)
    }
}

struct Trainer {
    network: Option<Network>, // taken and given back by every step
    optimizer: ModuleOptimizer,
    loss: CrossEntropyLoss,
    images: Tensor<4>,
    labels: Tensor<1, Int>,
}

impl Trainer {
    fn new(batch: usize, device: &Device) -> Result<Self, Box<dyn Error>> {
        let network = Network::new(device);
        let parameters = network.num_params();
        if parameters != PARAMETERS {
            return Err(format!("{parameters} parameters, not {PARAMETERS}").into());
        }
        let labels: Vec<i32> = (0..batch as i32).map(|i| i * 7 % 10).collect();
        Ok(Self {
            network: Some(network),
            optimizer: SgdConfig::new()
                .with_momentum(Some(MomentumConfig::new().with_dampening(0.0)))
                .with_weight_decay(Some(WeightDecayConfig::new(2e-4)))
                .init(),
            loss: CrossEntropyLossConfig::new().init(device),
            images: Tensor::random([batch, 3, 32, 32], Distribution::Normal(0.0, 1.0), device),
            labels: Tensor::from_ints(labels.as_slice(), device),
        })
    }

    /// `steps` whole updates; the loss of the last, whose value is read in every step, as a
    /// training program does.
    fn train(&mut self, steps: usize) -> f32 {
        let mut last = f32::NAN;
        for _ in 0..steps {
            let network = self.network.take().expect("given back by the step before");
            let logits = network.forward(self.images.clone());
            let loss = self.loss.forward(logits, self.labels.clone());
            last = loss.clone().into_scalar();
            let gradients = GradientsParams::from_grads(loss.backward(), &network);
            self.network = Some(self.optimizer.step(0.1, network, gradients));
        }
        last
    }
}

fn peak_rss_bytes() -> Value {
    // A missing figure is null: only Linux tells it.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .map_or(Value::Null, |kib| json!(kib * 1024))
}

fn say(value: &Value) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse()?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .build_global()?;
    let plain = Device::flex();
    plain.seed(0);
    let mut trainer = Trainer::new(options.batch, &plain.clone().autodiff())?;
    trainer.train(WARM_UP);
    say(&json!({
        "ready": true,
        "version": BURN,
        "config": {
            "backend": "flex",
            "avx512": cfg!(feature = "avx512"),
            "batch": options.batch,
            "infer_batch": options.infer_batch,
            "threads": options.threads,
        },
    }))?;

    let mut infer_images: Option<Tensor<4>> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let (command, count) = match words.as_slice() {
            ["quit"] => break,
            [command, count] => (*command, count.parse().unwrap_or(0)),
            _ => (line.as_str(), 0),
        };
        match (command, count) {
            ("train", 1..) => {
                let start = Instant::now();
                let loss = trainer.train(count);
                let seconds = start.elapsed().as_secs_f64();
                say(&json!({
                    "images_per_second": (count * options.batch) as f64 / seconds,
                    "peak_rss_bytes": peak_rss_bytes(),
                    "loss": if loss.is_finite() { json!(loss) } else { Value::Null },
                }))?;
            }
            ("infer", 1..) => {
                let network = trainer.network.as_ref().expect("set between steps").valid();
                let first = infer_images.is_none();
                let images = infer_images.get_or_insert_with(|| {
                    let shape = [options.infer_batch, 3, 32, 32];
                    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &plain)
                });
                let run = || black_box(network.forward(images.clone()).into_data());
                if first {
                    run(); // warm-up
                }
                let start = Instant::now();
                for _ in 0..count {
                    run();
                }
                let seconds = start.elapsed().as_secs_f64();
                say(&json!({
                    "images_per_second": (count * options.infer_batch) as f64 / seconds,
                    "peak_rss_bytes": peak_rss_bytes(),
                }))?;
            }
            _ => say(&json!({"error": format!("want `train K`, `infer K` or `quit`, not {line:?}")}))?,
        }
    }
    Ok(())
}
