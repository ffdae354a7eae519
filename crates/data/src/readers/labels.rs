//! Files that give the labels of images.

use std::path::Path;

use crate::Error;

/// The file of labels in Kaggle's CIFAR-10.
pub(super) const KAGGLE: &str = "trainLabels.csv";
/// The file of labels in the folder of Tiny ImageNet's validation images.
pub(super) const TINY_IMAGENET: &str = "val_annotations.txt";

/// Whether a file of this name may give labels.
pub(super) fn may_be_labels(path: &Path) -> bool {
    [KAGGLE, TINY_IMAGENET].iter().any(|name| path.ends_with(name))
}

/// The name without its ending, and the class, of each image: lines such as `1,frog` after one of column names.
pub(super) fn kaggle(path: &Path, text: &str) -> Result<Vec<(String, String)>, Error> {
    pairs(path, text.lines().enumerate().skip(1), ',', "a name and a class, such as 1,frog")
}

/// The name and the class of each image: lines of fields with tabs between, of which these are the first two.
pub(super) fn tiny_imagenet(path: &Path, text: &str) -> Result<Vec<(String, String)>, Error> {
    pairs(path, text.lines().enumerate(), '\t', "a file's name and a class with a tab between")
}

fn pairs<'a>(
    path: &Path,
    lines: impl Iterator<Item = (usize, &'a str)>,
    separator: char,
    what: &str,
) -> Result<Vec<(String, String)>, Error> {
    let mut pairs = Vec::new();
    for (index, line) in lines {
        if line.trim().is_empty() {
            continue;
        }
        let mut fields = line.split(separator).map(|field| field.trim().trim_matches('"').trim());
        let name = fields.next().filter(|name| !name.is_empty());
        let class = fields.next().filter(|class| !class.is_empty());
        let class = class.filter(|class| !class.contains(char::is_control));
        let (Some(name), Some(class)) = (name, class) else {
            let problem = format!("line {} is not {what}: correct or remove it", index + 1);
            return Err(Error::invalid(path, problem));
        };
        pairs.push((name.to_owned(), class.to_owned()));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_classes_are_read() {
        let path = Path::new("labels");
        let pair = |name: &str, class: &str| (name.to_owned(), class.to_owned());
        assert_eq!(
            kaggle(path, "id,label\r\n1,frog\r\n\"2\", \"the sea\"\n\n").unwrap(),
            [pair("1", "frog"), pair("2", "the sea")]
        );
        assert_eq!(
            tiny_imagenet(path, "val_0.JPEG\tn03444034\t0\t32\t44\t62\n").unwrap(),
            [pair("val_0.JPEG", "n03444034")]
        );
        for wrong in ["id,label\n1\n", "id,label\n1,\n", "id,label\n,frog", "x\n1,fr\u{7}og"] {
            let error = kaggle(path, wrong).unwrap_err().to_string();
            assert!(error.starts_with("labels: line 2 is not a name and a class"), "{error}");
        }
    }
}
