//! Descriptions and graphs of whole networks.

use crescendo_conformance::Fixture;
use crescendo_network::{
    ActivationKind, Family, Graph, Init, NetworkBuilder, NetworkConfig, Operation, Shape,
};

const IMAGES: Shape = Shape::Maps { channels: 3, height: 32, width: 32 };

#[test]
fn the_papers_network_has_the_papers_numbers() {
    let graph = Graph::new(&NetworkConfig::paper().network(IMAGES).unwrap()).unwrap();
    assert_eq!(graph.parameter_count(), 17_392_394);
    assert_eq!(graph.forward_macs(), 1_335_578_624);
    assert_eq!(graph.classes(), 10);
}

#[test]
fn lists_that_make_no_network_are_refused() {
    let complaint = |write: &dyn Fn(&mut NetworkBuilder)| {
        let mut builder = NetworkBuilder::new(Shape::Maps { channels: 3, height: 8, width: 8 });
        write(&mut builder);
        Graph::new(&builder.finish()).unwrap_err().to_string()
    };
    let (bias, init) = (true, Init::Uniform);
    let linear = Operation::Linear { outputs: 10, bias, init };
    let flat = |builder: &mut NetworkBuilder| {
        let images = builder.images();
        builder.add("flatten", Operation::Flatten, [images])
    };
    let maps = complaint(&|builder| {
        builder.add("fc", linear, [builder.images()]);
    });
    assert_eq!(maps, "fc: needs a vector, not maps: flatten them first");
    let unused = complaint(&|builder| {
        let x = flat(builder);
        builder.add("side", linear, [x]);
        builder.add("fc", linear, [x]);
    });
    assert_eq!(unused, "side: no operation reads its output: connect or remove it");
    let twice = complaint(&|builder| {
        let x = flat(builder);
        let x = builder.add("fc", linear, [x]);
        builder.add("fc", linear, [x]);
    });
    assert_eq!(twice, "fc: two operations have this name: rename one");
    let conv = Operation::Convolution { outputs: 1, kernel: 9, stride: 1, padding: 0, bias, init };
    let large = complaint(&|builder| {
        builder.add("conv", conv, [builder.images()]);
    });
    assert_eq!(large, "conv: filters of 9 do not fit 3x8x8");
    for (kernel, stride, outputs) in [(0, 1, 1), (3, 0, 1), (3, 1, 0)] {
        let conv = Operation::Convolution { outputs, kernel, stride, padding: 0, bias, init };
        let zero = complaint(&|builder| {
            builder.add("conv", conv, [builder.images()]);
        });
        assert!(zero.starts_with("conv: "), "{zero}");
    }
}

#[test]
fn whitening_filters_are_pytorchs() {
    let fixture = Fixture::AIRBENCH;
    let mut config =
        NetworkConfig { family: Family::Airbench, whitening: 2, ..NetworkConfig::paper() };
    (config.activation, config.bias) = (ActivationKind::Gelu, false);
    (config.blocks, config.widths) = (vec![2, 3], vec![4, 6]);
    (config.head.pool, config.head.hidden) = (3, 0);
    let graph = Graph::new(&config.network(IMAGES).unwrap()).unwrap();
    let mut state = graph.initial(0);
    graph.whiten(&mut state, || fixture.get("whiten/images"));
    let filters = state[0].values().unwrap();
    let expected = fixture.wide("whiten/weight");
    assert_eq!(filters.len(), expected.len());
    // The sign of an eigenvector is arbitrary; the negatives follow in the same order.
    for (index, (filter, expected)) in filters.chunks(12).zip(expected.chunks(12)).enumerate() {
        let dot: f64 = filter.iter().zip(expected).map(|(&a, b)| f64::from(a) * b).sum();
        let norm =
            |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>().sqrt();
        let pairs = filter.iter().zip(expected);
        let off = norm(&mut pairs.map(|(&x, e)| f64::from(x) - e * dot.signum()));
        let size = norm(&mut expected.iter().copied());
        assert!(off <= 3e-6 * size + 1e-6, "filter {index}: off by {off:e} of {size:e}");
    }
}
