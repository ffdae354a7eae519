//! `evaluation.json`: the latest evaluation of each split, with its confusion matrix and the images
//! that were misclassified most confidently. Field names are the keys of the file.

use std::path::{Path, PathBuf};

use crescendo_data::ImageShape;
use crescendo_training::events::EvaluatedSplit;
use crescendo_training::json_file::{self, in_base64};
use crescendo_training::{CalibrationBin, Error, Evaluation, Misclassified, write_atomically};
use serde::{Deserialize, Serialize};

/// The content of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct EvaluationFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<EvaluationRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<EvaluationRecord>,
}

/// An evaluation of one split. What files of earlier versions lack is empty when they are read.
#[derive(Debug, Serialize, Deserialize)]
pub struct EvaluationRecord {
    pub epoch: u32,
    pub accuracy: f64,
    /// The mean of the classes' accuracies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balanced_accuracy: Option<f64>,
    /// With more than ten classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top5_accuracy: Option<f64>,
    /// `None` if it is not finite, which JSON cannot represent.
    pub loss: Option<f64>,
    /// The expected calibration error, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration_error: Option<f64>,
    /// Bins of confidence, of equal width from 0 to 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calibration: Vec<BinRecord>,
    /// Views of each image whose predictions were averaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub views: Option<usize>,
    pub classes: Vec<String>,
    /// Row: the label; column: the prediction.
    pub confusion: Vec<Vec<u64>>,
    /// For each class, from the confusion matrix, for other programs. `None` where no image was predicted as the class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_precisions: Vec<Option<f64>>,
    /// The same; `None` where there is no image of the class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_recalls: Vec<Option<f64>>,
    pub mistakes: Vec<MisclassifiedImage>,
}

/// The images with a confidence in a bin: the mean of their confidences and the share of them that is classified
/// correctly, if there are any.
#[derive(Debug, Serialize, Deserialize)]
pub struct BinRecord {
    pub images: u64,
    pub confidence: Option<f64>,
    pub accuracy: Option<f64>,
}

/// A misclassified image. Label and answer (the prediction) are indices of classes.
#[derive(Debug, Serialize, Deserialize)]
pub struct MisclassifiedImage {
    pub index: usize,
    pub label: usize,
    pub answer: usize,
    pub probability: f64,
    /// Its file's path in the data set, if it has a file of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Red, green and blue planes, one byte per pixel; base64 in the file.
    #[serde(with = "in_base64")]
    pub image: Vec<u8>,
}

impl EvaluationFile {
    /// Reads the file of the run in `folder`; empty if nothing was evaluated yet.
    ///
    /// # Errors
    /// If the file cannot be read or is damaged.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let path = path(folder);
        let advice = "remove it; the next evaluation of the run recreates it";
        let Some(file) = json_file::read::<Self>(&path, advice)? else {
            return Ok(Self::default());
        };
        for record in [&file.test, &file.validation].into_iter().flatten() {
            record.check().map_err(|problem| json_file::damaged(&path, problem, advice))?;
        }
        Ok(file)
    }

    /// Replaces the evaluation of a split and writes the file into the run's `folder`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn update(
        &mut self,
        folder: &Path,
        split: EvaluatedSplit,
        record: EvaluationRecord,
    ) -> Result<(), Error> {
        match split {
            EvaluatedSplit::Test => self.test = Some(record),
            EvaluatedSplit::Validation => self.validation = Some(record),
            // The file has these two.
            _ => return Ok(()),
        }
        let text = serde_json::to_string(self).expect("all keys are strings");
        write_atomically(&path(folder), |file| file.write_all(text.as_bytes()))
    }
}

impl EvaluationRecord {
    /// The record of an evaluation after `epoch`.
    pub fn new(epoch: u32, evaluation: &Evaluation, classes: &[String]) -> Self {
        let record = |image: &Misclassified| MisclassifiedImage {
            index: image.index,
            label: image.label,
            answer: image.prediction,
            probability: image.probability,
            file: image.file.clone(),
            image: image.image.clone(),
        };
        let bin = |bin: &CalibrationBin| BinRecord {
            images: bin.images,
            confidence: bin.confidence(),
            accuracy: bin.accuracy(),
        };
        let scores = evaluation.class_scores();
        let finite = |image: &&Misclassified| image.probability.is_finite();
        let misclassified = evaluation.misclassified.iter().filter(finite);
        EvaluationRecord {
            epoch,
            accuracy: evaluation.accuracy(),
            balanced_accuracy: Some(evaluation.balanced_accuracy()),
            top5_accuracy: evaluation.top5_accuracy(),
            loss: Some(evaluation.loss).filter(|loss| loss.is_finite()),
            calibration_error: Some(evaluation.calibration_error())
                .filter(|_| !evaluation.calibration.is_empty()),
            calibration: evaluation.calibration.iter().map(bin).collect(),
            views: Some(evaluation.views),
            classes: classes.to_vec(),
            confusion: evaluation.confusion.clone(),
            class_precisions: scores.iter().map(|score| score.precision).collect(),
            class_recalls: scores.iter().map(|score| score.recall).collect(),
            mistakes: misclassified.map(record).collect(),
        }
    }

    /// Checks that the parts fit together, so that code that shows them can rely on it.
    fn check(&self) -> Result<(), &'static str> {
        let classes = self.classes.len();
        let square = self.confusion.len() == classes
            && self.confusion.iter().all(|predictions| predictions.len() == classes);
        let counts = self.confusion.iter().flatten();
        if !square || counts.copied().try_fold(0, u64::checked_add).is_none() {
            return Err("the confusion matrix does not fit the classes");
        }
        let fits = |image: &MisclassifiedImage| {
            image.label < classes
                && image.answer < classes
                && image.image.len() == ImageShape::CIFAR.elements()
        };
        if !self.mistakes.iter().all(fits) {
            return Err("a misclassified image has an unknown class or no pixels");
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
    use std::fs;

    fn evaluation() -> Evaluation {
        let mut image = Misclassified::default();
        image.index = 7;
        image.label = 0;
        image.prediction = 1;
        image.probability = 0.75;
        image.image = vec![9; ImageShape::CIFAR.elements()];
        let confusion = vec![vec![3, 1], vec![0, 4]];
        let mut evaluation = Evaluation::default();
        evaluation.confusion = confusion;
        evaluation.loss = 0.5;
        evaluation.views = 6;
        evaluation.misclassified = vec![image];
        evaluation
    }

    #[test]
    fn the_latest_of_each_split_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let classes = ["cat", "dog"].map(String::from);
        assert!(EvaluationFile::read(folder).unwrap().test.is_none());
        for (split, epoch) in
            [(EvaluatedSplit::Validation, 1), (EvaluatedSplit::Test, 2), (EvaluatedSplit::Test, 4)]
        {
            let record = EvaluationRecord::new(epoch, &evaluation(), &classes);
            EvaluationFile::read(folder).unwrap().update(folder, split, record).unwrap();
        }
        let file = EvaluationFile::read(folder).unwrap();
        let (test, validation) = (file.test.unwrap(), file.validation.unwrap());
        assert_eq!((test.epoch, validation.epoch), (4, 1));
        assert_eq!((test.accuracy, test.loss), (0.875, Some(0.5)));
        assert_eq!(test.mistakes[0].image, evaluation().misclassified[0].image);
    }

    #[test]
    fn precision_recall_and_calibration_are_kept_with_the_images_files() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mut evaluation = evaluation();
        evaluation.misclassified[0].file = Some("dog/<7>.png".to_owned());
        evaluation.calibration = vec![CalibrationBin::default(); 2];
        let bin = &mut evaluation.calibration[1];
        (bin.images, bin.correct, bin.confidence_sum) = (8, 7, 6.0);
        let record = EvaluationRecord::new(1, &evaluation, &["cat", "dog"].map(String::from));
        EvaluationFile::default().update(folder, EvaluatedSplit::Test, record).unwrap();
        let record = EvaluationFile::read(folder).unwrap().test.unwrap();
        // 3 of 3 and 4 of 5 predictions are right; of 4 cats and 4 dogs, 3 and 4 are found.
        assert_eq!(record.class_precisions, [Some(1.0), Some(0.8)]);
        assert_eq!(record.class_recalls, [Some(0.75), Some(1.0)]);
        assert_eq!((record.calibration_error, record.top5_accuracy), (Some(0.125), None));
        let bins: Vec<_> = record
            .calibration
            .iter()
            .map(|bin| (bin.images, bin.confidence, bin.accuracy))
            .collect();
        assert_eq!(bins, [(0, None, None), (8, Some(0.75), Some(0.875))]);
        assert_eq!(record.mistakes[0].file.as_deref(), Some("dog/<7>.png"));
    }

    #[test]
    fn a_file_of_an_earlier_version_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let entry = r#"{"epoch":1,"accuracy":1,"loss":0.5,"classes":["a"],"confusion":[[1]],"mistakes":[]}"#;
        fs::write(path(folder.path()), format!("{{\"test\":{entry}}}")).unwrap();
        let record = EvaluationFile::read(folder.path()).unwrap().test.unwrap();
        assert_eq!((record.accuracy, record.calibration_error, record.views), (1.0, None, None));
        assert!(record.calibration.is_empty() && record.class_recalls.is_empty());
    }

    #[test]
    fn damaged_files_are_rejected() {
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
            let complaint = EvaluationFile::read(folder.path()).unwrap_err().to_string();
            assert!(complaint.contains("evaluation.json: is damaged ("), "{complaint}");
        }
    }
}
