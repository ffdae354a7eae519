//! A picture in memory: rectangles, images and text of an 8x8 bitmap font, written as PNG.

use font8x8::legacy::{BASIC_LEGACY, LATIN_LEGACY};

/// Width and height of a letter in pixels.
pub const LETTER: usize = 8;

pub const WHITE: Colour = [255; 3];
pub const BLACK: Colour = [0; 3];

/// Red, green and blue.
pub type Colour = [u8; 3];

/// The dots at the end of a shortened name.
const ELLIPSIS: [u8; 8] = [0, 0, 0, 0, 0, 0x49, 0x49, 0];

/// A picture, white in the beginning.
pub struct Canvas {
    pub width: usize,
    pub height: usize,
    pixels: Vec<u8>,
}

/// The direction of a text.
#[derive(Clone, Copy, PartialEq)]
pub enum Direction {
    Right,
    Up,
}

impl Canvas {
    pub fn new(width: usize, height: usize) -> Self {
        Canvas { width, height, pixels: vec![255; 3 * width * height] }
    }

    /// Sets a pixel, if it is in the picture.
    fn set(&mut self, x: usize, y: usize, colour: Colour) {
        if x < self.width && y < self.height {
            self.pixels[3 * (y * self.width + x)..][..3].copy_from_slice(&colour);
        }
    }

    /// Fills the rectangle of this size whose upper left corner is at `[x, y]`.
    pub fn fill(&mut self, [x, y]: [usize; 2], [width, height]: [usize; 2], colour: Colour) {
        for y in y..y + height {
            (x..x + width).for_each(|x| self.set(x, y, colour));
        }
    }

    /// Draws an image of `side` rows and columns, given as a red, a green and a blue plane, enlarged by a whole
    /// number.
    pub fn image(&mut self, [x, y]: [usize; 2], planes: &[u8], side: usize, scale: usize) {
        for pixel in 0..side * side {
            let plane = |colour: usize| planes.get(colour * side * side + pixel).copied();
            let colour = [0, 1, 2].map(|colour| plane(colour).unwrap_or_default());
            let at = [x + pixel % side * scale, y + pixel / side * scale];
            self.fill(at, [scale; 2], colour);
        }
    }

    /// Writes a text: to the right of and below `[x, y]`, or up from it, with the tops of its letters to the left.
    pub fn text(&mut self, [x, y]: [usize; 2], text: &str, direction: Direction, colour: Colour) {
        for (place, letter) in text.chars().enumerate() {
            for (row, bits) in glyph(letter).into_iter().enumerate() {
                for column in (0..LETTER).filter(|column| bits >> column & 1 == 1) {
                    let along = place * LETTER + column;
                    match direction {
                        Direction::Right => self.set(x + along, y + row, colour),
                        Direction::Up if along < y => self.set(x + row, y - 1 - along, colour),
                        Direction::Up => {}
                    }
                }
            }
        }
    }

    /// The picture as a PNG file.
    pub fn png(&self) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let written = encoder.write_header().and_then(|mut png| png.write_image_data(&self.pixels));
        written.expect("memory can be written to");
        file
    }
}

/// The rows of a letter, each from its lowest bit on; a question mark for one that the font lacks.
fn glyph(letter: char) -> [u8; 8] {
    let code = letter as usize;
    let latin = || LATIN_LEGACY.get(code.checked_sub(0xa0)?);
    match letter {
        '…' => ELLIPSIS,
        _ => *BASIC_LEGACY.get(code).or_else(latin).unwrap_or(&BASIC_LEGACY[usize::from(b'?')]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pixels that are black, as rows of text.
    fn picture(canvas: &Canvas) -> Vec<String> {
        let shown = |pixel: &[u8]| if pixel == BLACK { '#' } else { '.' };
        let rows = canvas.pixels.chunks_exact(3 * canvas.width);
        rows.map(|row| row.chunks_exact(3).map(shown).collect()).collect()
    }

    #[test]
    fn a_letter_is_drawn_in_both_directions() {
        let mut canvas = Canvas::new(8, 8);
        canvas.text([0, 0], "L", Direction::Right, BLACK);
        let right = picture(&canvas);
        assert_eq!(right[0], "####....");
        assert_eq!(right[6], "#######.");
        let mut canvas = Canvas::new(8, 8);
        canvas.text([0, 8], "L", Direction::Up, BLACK);
        let up = picture(&canvas);
        // The left side of the letter is below, its top to the left.
        for (row, line) in right.iter().enumerate() {
            let column: String = up.iter().rev().map(|line| line.as_bytes()[row] as char).collect();
            assert_eq!(&column, line);
        }
    }

    #[test]
    fn what_lies_outside_is_not_drawn() {
        let mut canvas = Canvas::new(10, 10);
        canvas.fill([8, 8], [5, 5], BLACK);
        canvas.text([9, 9], "long text…é猫", Direction::Right, BLACK);
        canvas.text([9, 3], "long", Direction::Up, BLACK);
        canvas.image([5, 5], &[0; 12], 2, 100);
        assert_eq!(picture(&canvas)[0].len(), 10);
    }

    #[test]
    fn a_png_has_the_pixels() {
        let mut canvas = Canvas::new(6, 3);
        canvas.image([2, 0], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], 2, 1);
        let mut reader = png::Decoder::new(std::io::Cursor::new(canvas.png())).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (6, 3));
        assert_eq!(pixels[..12], [255, 255, 255, 255, 255, 255, 1, 5, 9, 2, 6, 10]);
        assert_eq!(pixels[24..30], [3, 7, 11, 4, 8, 12]);
    }
}
