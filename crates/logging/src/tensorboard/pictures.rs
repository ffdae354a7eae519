//! Pictures of an evaluation for TensorBoard: the confusion matrix, and the most confidently misclassified images.

use crescendo_data::ImageShape;
use crescendo_training::Evaluation;

use super::canvas::{BLACK, Canvas, Colour, Direction, LETTER, WHITE};
use crate::confusions::{MAX_MATRIX_CLASSES, shortened};

/// Rows and columns of an image, how much it is enlarged, and its size then.
const SIDE: usize = ImageShape::CIFAR.width;
const SCALE: usize = 3;
const SHOWN: usize = SIDE * SCALE;

/// Misclassified images in a picture, and in a row of it.
const MISTAKES: usize = 12;
const IN_ROW: usize = 6;

/// Empty pixels around what is drawn.
const MARGIN: usize = 6;
/// Letters of a class name.
const NAME: usize = 12;

/// Colours of right and wrong predictions, and of the lines between cells.
const RIGHT: Colour = [31, 111, 214];
const WRONG: Colour = [214, 84, 31];
const GRID: Colour = [223, 227, 230];

/// The confusion matrix: a row for each class, a column for each prediction, with the names of up to 88 classes and
/// the counts of up to twenty.
pub fn confusion_matrix(evaluation: &Evaluation, classes: &[String]) -> Canvas {
    let confusion = &evaluation.confusion;
    let count = confusion.len();
    let digits = confusion.iter().flatten().max().unwrap_or(&0).to_string().len();
    let has_counts = count <= MAX_MATRIX_CLASSES;
    let cell = match has_counts {
        true => (digits * LETTER + 6).max(28),
        false => (800 / count).clamp(3, 24),
    };
    let has_names = cell > LETTER;
    let names = if has_names { shortened(classes, NAME) } else { Vec::new() };
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    // The words `true` and `predicted` are in the corner of the names.
    let heading = LETTER + 2 * MARGIN;
    let (left, top) =
        ((longest * LETTER).max(4 * LETTER) + 2 * MARGIN, heading + longest * LETTER + MARGIN);
    let side = count * cell;
    let mut canvas =
        Canvas::new((left + side).max(left + 9 * LETTER) + MARGIN, top + side + MARGIN);
    canvas.text([left, MARGIN], "predicted", Direction::Right, BLACK);
    canvas.text([MARGIN, top - LETTER - MARGIN], "true", Direction::Right, BLACK);
    let middle = (cell - LETTER.min(cell)) / 2;
    for (index, name) in names.iter().enumerate() {
        canvas.text([MARGIN, top + index * cell + middle], name, Direction::Right, BLACK);
        canvas.text([left + index * cell + middle, top - MARGIN], name, Direction::Up, BLACK);
    }
    canvas.fill([left, top], [side; 2], GRID);
    // Errors are coloured relative to the largest one, or those of a good network would be invisible.
    let cells = || {
        confusion.iter().enumerate().flat_map(|(row, counts)| {
            let total = counts.iter().sum::<u64>().max(1) as f64;
            let counts = counts.iter().enumerate();
            counts.map(move |(column, &images)| (row, column, images, images as f64 / total))
        })
    };
    let worst = cells().filter(|(row, column, ..)| row != column);
    let worst = worst.map(|(.., share)| share).fold(1e-9, f64::max);
    let line = usize::from(cell > 4);
    for (row, column, images, share) in cells() {
        let (own, share) = if row == column { (RIGHT, share) } else { (WRONG, share / worst) };
        let [x, y] = [left + column * cell, top + row * cell];
        canvas.fill([x, y], [cell - line; 2], mixed(own, share));
        if has_counts {
            let text = images.to_string();
            let at = [x + (cell - text.len() * LETTER) / 2, y + middle];
            canvas.text(at, &text, Direction::Right, BLACK);
        }
    }
    canvas
}

/// The images that were misclassified with most confidence, each above its class and the prediction with its
/// probability; `None` if there are none.
pub fn mistakes(evaluation: &Evaluation, classes: &[String]) -> Option<Canvas> {
    let images = &evaluation.misclassified[..evaluation.misclassified.len().min(MISTAKES)];
    let rows = images.len().div_ceil(IN_ROW);
    if rows == 0 {
        return None;
    }
    let (width, height) = (SHOWN + 2 * MARGIN, SHOWN + 2 * (LETTER + 2) + 3 * MARGIN);
    let mut canvas = Canvas::new(IN_ROW * width, rows * height);
    // A name above, and a shorter one beside the probability.
    let (labels, predictions) = (shortened(classes, NAME), shortened(classes, NAME - 5));
    for (index, image) in images.iter().enumerate() {
        let [x, y] = [index % IN_ROW * width + MARGIN, index / IN_ROW * height + MARGIN];
        canvas.image([x, y], &image.image, SIDE, SCALE);
        let name = |names: &[String], class: usize| names.get(class).cloned().unwrap_or_default();
        let percent = format!("{:.0}%", 100.0 * image.probability);
        let prediction = format!("{} {percent:>4}", name(&predictions, image.prediction));
        let lines = [(name(&labels, image.label), BLACK), (prediction, WRONG)];
        for (line, (text, colour)) in lines.into_iter().enumerate() {
            let at = [x, y + SHOWN + MARGIN + line * (LETTER + 2)];
            canvas.text(at, &text, Direction::Right, colour);
        }
    }
    Some(canvas)
}

/// White, mixed with some of another colour.
fn mixed(colour: Colour, share: f64) -> Colour {
    let share = 0.7 * share.clamp(0.0, 1.0);
    let mix = |index: usize| {
        let (from, to) = (f64::from(WHITE[index]), f64::from(colour[index]));
        (from + share * (to - from)).round() as u8
    };
    [0, 1, 2].map(mix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crescendo_training::Misclassified;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|class| format!("class {class}")).collect()
    }

    #[test]
    fn matrices_of_any_number_of_classes_fit_their_pictures() {
        for count in [1, 2, 10, 20, 21, 88, 89, 200, 1000] {
            let mut evaluation = Evaluation::default();
            evaluation.confusion = vec![vec![123_456; count]; count];
            let picture = confusion_matrix(&evaluation, &names(count));
            assert!(picture.width < 3200 && picture.height < 3200, "{count}: {}", picture.width);
            let png = picture.png();
            assert!(png.len() < 200_000, "{count}: {}", png.len());
        }
        // An evaluation of nothing.
        confusion_matrix(&Evaluation::default(), &[]).png();
    }

    #[test]
    fn a_dozen_of_the_worst_images_are_in_a_picture() {
        let mut evaluation = Evaluation::default();
        assert!(mistakes(&evaluation, &[]).is_none());
        let mut image = Misclassified::default();
        (image.label, image.prediction, image.probability) = (1, 0, 1.0);
        image.image = vec![7; ImageShape::CIFAR.elements()];
        for (count, rows) in [(1, 1), (6, 1), (7, 2), (24, 2)] {
            evaluation.misclassified = vec![image.clone(); count];
            let picture = mistakes(&evaluation, &names(2)).unwrap();
            assert_eq!((picture.width, picture.height), (648, rows * 134));
        }
    }

    #[test]
    fn colours_are_between_white_and_their_own() {
        assert_eq!(mixed(RIGHT, 0.0), WHITE);
        assert_eq!(mixed([255, 155, 55], 1.0), [255, 185, 115]);
        assert_eq!(mixed([0; 3], 7.0), mixed([0; 3], 1.0));
    }
}
