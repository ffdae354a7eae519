//! The layers of a network as a table, one by one or in blocks.

use crescendo::network::{Graph, GraphNode};

use crate::commands::operation_text::operation_kind;

/// A line of the table.
#[derive(Debug, PartialEq)]
struct Row {
    name: String,
    operations: String,
    output: String,
    parameters: usize,
    macs: u64,
}

/// The table, with a line for every layer, or for each block of them.
pub fn table(graph: &Graph, every_layer: bool) -> String {
    let rows: Vec<Row> = match every_layer {
        true => graph.nodes.iter().map(|node| row(graph, &node.name, &[node])).collect(),
        false => blocks(graph),
    };
    let width = |of: fn(&Row) -> &str, heading: &str| {
        let longest = rows.iter().map(|row| of(row).chars().count()).max().unwrap_or_default();
        longest.max(heading.len())
    };
    let heading = if every_layer { "layer" } else { "block" };
    let name = width(|row| &row.name, heading);
    let operations = width(|row| &row.operations, "operations");
    let output = width(|row| &row.output, "output");
    let line = |cells: [&str; 5]| {
        let [a, b, c, d, e] = cells;
        format!("{a:<name$}  {b:<operations$}  {c:<output$}  {d:>10}  {e:>10}\n")
    };
    let mut text = line([heading, "operations", "output", "parameters", "MACs"]);
    for row in &rows {
        let (parameters, macs) = (row.parameters.to_string(), row.macs.to_string());
        text += &line([&row.name, &row.operations, &row.output, &parameters, &macs]);
    }
    text
}

/// Layers that follow each other and are of the same block, in a line.
fn blocks(graph: &Graph) -> Vec<Row> {
    graph
        .nodes
        .chunk_by(|one, next| block(&one.name) == block(&next.name))
        .map(|nodes| {
            let nodes: Vec<&GraphNode> = nodes.iter().collect();
            let name = if let [node] = nodes[..] { &node.name } else { block(&nodes[0].name) };
            row(graph, name, &nodes)
        })
        .collect()
}

/// The block that a layer belongs to: its name up to the last number within it, or else up to the first dot.
fn block(name: &str) -> &str {
    let parents = name.match_indices('.').map(|(end, _)| &name[..end]);
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let numbered = parents.clone().rfind(|name| name.rsplit('.').next().is_some_and(is_number));
    numbered.or_else(|| parents.clone().next()).unwrap_or(name)
}

fn row(graph: &Graph, name: &str, nodes: &[&GraphNode]) -> Row {
    let parameters = nodes.iter().flat_map(|node| node.parameters());
    let output = nodes.last().map(|node| node.output.to_string());
    Row {
        name: name.to_owned(),
        operations: operations(nodes),
        output: output.unwrap_or_default(),
        parameters: parameters.map(|index| graph.parameters[index].range.len()).sum(),
        macs: nodes.iter().map(|node| node.macs).sum(),
    }
}

/// What the layers do: of several, only those that multiply are named, if there are any.
fn operations(nodes: &[&GraphNode]) -> String {
    let multiply = nodes.iter().any(|node| node.macs > 0);
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for node in nodes.iter().filter(|node| !multiply || node.macs > 0) {
        let kind = operation_kind(&node.operation);
        match kinds.iter_mut().find(|counted| counted.0 == kind) {
            Some(counted) => counted.1 += 1,
            None => kinds.push((kind, 1)),
        }
    }
    let texts = kinds.into_iter().map(|(kind, count)| match count {
        1 => kind.to_owned(),
        _ => format!("{count} {kind}"),
    });
    texts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crescendo::training::{Recipe, graph};

    #[test]
    fn names_say_which_layers_are_a_block() {
        for (name, expected) in [
            ("stack_layers.0.blocks.12.conv1", "stack_layers.0.blocks.12"),
            ("stack_layers.0.blocks.1.shortcut.0", "stack_layers.0.blocks.1"),
            ("start_layer.0", "start_layer"),
            ("output_layer.pool", "output_layer"),
            ("layers.1.conv1", "layers.1"),
            ("layers.0", "layers"),
            ("whiten", "whiten"),
            (".5", ""),
        ] {
            assert_eq!(block(name), expected);
        }
    }

    #[test]
    fn blocks_sum_up_what_their_layers_have() {
        for (recipe, lines) in [("quick", 5), ("fast94", 9), ("report", 20)] {
            let graph = graph(&Recipe::load::<&str>(recipe, &[]).unwrap()).unwrap();
            let rows = blocks(&graph);
            assert_eq!(rows.len(), lines, "{rows:?}");
            let parameters: usize = rows.iter().map(|row| row.parameters).sum();
            assert_eq!(parameters, graph.parameter_count());
            let macs: u64 = rows.iter().map(|row| row.macs).sum();
            assert_eq!(macs, graph.forward_macs());
            let longest = table(&graph, false).lines().map(str::len).max().unwrap();
            assert!(longest <= 80, "{longest} columns");
        }
        let graph = graph(&Recipe::load::<&str>("quick", &[]).unwrap()).unwrap();
        let expected = Row {
            name: "stack_layers.1.blocks.0".into(),
            operations: "3 Convolution".into(),
            output: "32x16x16".into(),
            parameters: 4640 + 64 + 9248 + 64 + 544 + 64,
            macs: 1_179_648 + 2_359_296 + 131_072,
        };
        assert_eq!(blocks(&graph)[2], expected);
        assert_eq!(table(&graph, true).lines().count(), 1 + graph.nodes.len());
    }
}
