//! The kernels' machine code, compiled ahead by `compile.py`.

use std::io::Read;

use flate2::read::GzDecoder;

const SM_80: &[u8] = include_bytes!("../kernels/compiled/sm_80.cubin.gz");
const SM_86: &[u8] = include_bytes!("../kernels/compiled/sm_86.cubin.gz");
const SM_89: &[u8] = include_bytes!("../kernels/compiled/sm_89.cubin.gz");
const SM_90A: &[u8] = include_bytes!("../kernels/compiled/sm_90a.cubin.gz");
const PTX: &[u8] = include_bytes!("../kernels/compiled/compute_80.ptx.gz");

/// The code for cards of a compute capability; `None` if they are too old. Machine code runs on cards of the same major
/// version and the same or a later minor one; later cards compile PTX when they load it.
pub(crate) fn for_capability(capability: (u32, u32)) -> Option<Vec<u8>> {
    let packed = match capability {
        (8, 0..=5) => SM_80,
        (8, 6..=8) => SM_86,
        (8, 9..) => SM_89,
        (9, 0) => SM_90A,
        (9.., _) => PTX,
        _ => return None,
    };
    let mut code = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut code).expect("the code is part of the program");
    Some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_code_for_every_card_from_ampere_on() {
        for capability in [(8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (12, 0)] {
            let code = for_capability(capability).expect("the card is new enough");
            // An ELF file, or PTX, which ends with a zero.
            let is_ptx = code.ends_with(&[0]) && code.is_ascii();
            assert!(code.starts_with(b"\x7fELF") || is_ptx, "{capability:?}");
        }
        assert_eq!(for_capability((7, 5)), None);
    }
}
