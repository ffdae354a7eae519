//! `evaluation.json`: the latest evaluation of each split, with the images most surely wrong.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crescendo_data::ImageShape;
use crescendo_training::events::EvaluatedSplit;
use crescendo_training::{Error, Evaluation, write_atomically};
use serde::{Deserialize, Serialize};

/// The file's content.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Evaluations {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Entry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Entry>,
}

/// One evaluation.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub epoch: u32,
    pub accuracy: f64,
    /// None if it is no finite number, which JSON cannot hold.
    pub loss: Option<f64>,
    /// Views of each image that an answer is the mean of; older files do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub views: Option<usize>,
    pub classes: Vec<String>,
    pub confusion: Vec<Vec<u64>>,
    pub mistakes: Vec<Wrong>,
}

/// A wrong answer; label and answer are classes' numbers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Wrong {
    pub index: usize,
    pub label: usize,
    pub answer: usize,
    pub probability: f64,
    #[serde(with = "in_base64")]
    pub image: Vec<u8>,
}

mod in_base64 {
    use super::{Engine, STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(|_| D::Error::custom("an image is not in base64"))
    }
}

impl Evaluations {
    /// What the run in `folder` has; empty where nothing was evaluated.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let path = path(folder);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        let bad = |problem: String| {
            let problem = format!("is damaged ({problem}): remove it, and it is made again");
            Error::bad(&path, problem)
        };
        let all: Self = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        for entry in [&all.test, &all.validation].into_iter().flatten() {
            entry.check().map_err(|problem| bad(problem.into()))?;
        }
        Ok(all)
    }

    /// Puts an evaluation in its split's place, and writes the file.
    pub fn keep(
        &mut self,
        folder: &Path,
        split: EvaluatedSplit,
        entry: Entry,
    ) -> Result<(), Error> {
        match split {
            EvaluatedSplit::Test => self.test = Some(entry),
            EvaluatedSplit::Validation => self.validation = Some(entry),
        }
        let text = serde_json::to_string(self).expect("only strings for keys");
        write_atomically(&path(folder), |file| file.write_all(text.as_bytes()))
    }
}

impl Entry {
    pub fn new(epoch: u32, evaluation: &Evaluation, classes: &[String]) -> Self {
        let wrong = |mistake: &crescendo_training::Mistake| Wrong {
            index: mistake.index,
            label: mistake.label,
            answer: mistake.answer,
            probability: mistake.probability,
            image: mistake.image.clone(),
        };
        let mistakes = evaluation.mistakes.iter().filter(|one| one.probability.is_finite());
        Entry {
            epoch,
            accuracy: evaluation.accuracy(),
            loss: Some(evaluation.loss).filter(|loss| loss.is_finite()),
            views: Some(evaluation.views),
            classes: classes.to_vec(),
            confusion: evaluation.confusion.clone(),
            mistakes: mistakes.map(wrong).collect(),
        }
    }

    /// Whether its parts fit together, so that nobody who shows it needs to ask.
    fn check(&self) -> Result<(), &'static str> {
        let classes = self.classes.len();
        let square = self.confusion.len() == classes
            && self.confusion.iter().all(|answers| answers.len() == classes);
        let counts = self.confusion.iter().flatten();
        if !square || counts.copied().try_fold(0, u64::checked_add).is_none() {
            return Err("the confusion matrix does not fit the classes");
        }
        let fits = |wrong: &Wrong| {
            wrong.label < classes
                && wrong.answer < classes
                && wrong.image.len() == ImageShape::CIFAR.elements()
        };
        if !self.mistakes.iter().all(fits) {
            return Err("a wrong answer has an unknown class, or no image");
        }
        Ok(())
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("evaluation.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crescendo_training::Mistake;

    fn evaluation() -> Evaluation {
        let mistake = Mistake {
            index: 7,
            label: 0,
            answer: 1,
            probability: 0.75,
            image: vec![9; ImageShape::CIFAR.elements()],
        };
        let confusion = vec![vec![3, 1], vec![0, 4]];
        Evaluation { confusion, loss: 0.5, views: 6, mistakes: vec![mistake] }
    }

    #[test]
    fn the_latest_of_each_split_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let classes = ["cat", "dog"].map(String::from);
        assert!(Evaluations::read(folder).unwrap().test.is_none());
        for (split, epoch) in
            [(EvaluatedSplit::Validation, 1), (EvaluatedSplit::Test, 2), (EvaluatedSplit::Test, 4)]
        {
            let entry = Entry::new(epoch, &evaluation(), &classes);
            Evaluations::read(folder).unwrap().keep(folder, split, entry).unwrap();
        }
        let all = Evaluations::read(folder).unwrap();
        let (test, validation) = (all.test.unwrap(), all.validation.unwrap());
        assert_eq!((test.epoch, validation.epoch), (4, 1));
        assert_eq!((test.accuracy, test.loss), (0.875, Some(0.5)));
        assert_eq!(test.mistakes[0].image, evaluation().mistakes[0].image);
    }

    #[test]
    fn damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let entry =
            r#"{"epoch":1,"accuracy":1,"loss":null,"classes":["a"],"confusion":C,"mistakes":M}"#;
        let wrong = r#"[{"index":0,"label":0,"answer":0,"probability":1,"image":"AA=="}]"#;
        for (confusion, mistakes) in [
            ("[[1]]", "[1]"),
            ("[[1,2]]", "[]"),
            ("[]", "[]"),
            ("[[-1]]", "[]"),
            ("[[1]]", wrong),
            ("[[1]]", &wrong.replace("AA==", "!")),
            ("[[1]]", &wrong.replace("\"label\":0", "\"label\":1")),
        ] {
            let entry = entry.replace("C", confusion).replace("M", mistakes);
            fs::write(path(folder.path()), format!("{{\"test\":{entry}}}")).unwrap();
            let complaint = Evaluations::read(folder.path()).unwrap_err().to_string();
            assert!(complaint.contains("evaluation.json: is damaged ("), "{complaint}");
        }
    }
}
