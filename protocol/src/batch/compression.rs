//! Compression of the records section. Output is allocated as it is produced, never because a length
//! field asks for it.

use std::cell::RefCell;

use thiserror::Error;
use zstd::zstd_safe::{self, zstd_sys::ZSTD_ErrorCode};

use super::error::BatchError;

/// How a records section is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Compression {
    /// As it is.
    #[default]
    None = 0,
    /// One LZ4 block, without frame or size prefix. Cheap; about half the size for text.
    Lz4 = 1,
    /// One Zstandard frame, without dictionary. Smaller, slower.
    Zstd = 2,
}

/// Bits of the attributes field that hold the compression.
const COMPRESSION_BITS: u16 = 0b111;

/// Zstandard level of batches made here: the library's own default.
const ZSTD_LEVEL: i32 = 3;

/// Smallest output buffer a decoder begins with.
const OUTPUT_BYTES_START: usize = 64 * 1024;
/// How far the first output buffer may go ahead of the input.
const OUTPUT_PER_INPUT_START: usize = 8;
/// By how much the buffer grows when the output did not fit.
const OUTPUT_GROWTH: usize = 4;

impl Compression {
    pub(super) fn from_attributes(attributes: u16) -> Result<Self, BatchError> {
        if attributes & !COMPRESSION_BITS != 0 {
            return Err(BatchError::ReservedBits { field: "attributes" });
        }
        match attributes {
            0 => Ok(Self::None),
            1 => Ok(Self::Lz4),
            2 => Ok(Self::Zstd),
            number => Err(BatchError::UnknownCompression { number: number as u8 }),
        }
    }

    pub(super) fn attributes(self) -> u16 {
        self as u16
    }

    /// Compresses `section` behind `room` zero bytes; `None` when that saves nothing.
    pub(super) fn compress(self, section: &[u8], room: usize) -> Option<Vec<u8>> {
        let bound = match self {
            Self::None => return None,
            Self::Lz4 => lz4_flex::block::get_maximum_output_size(section.len()),
            Self::Zstd => zstd_safe::compress_bound(section.len()),
        };
        let mut out = vec![0; room + bound];
        let written = match self {
            Self::None => return None,
            Self::Lz4 => lz4_flex::block::compress_into(section, &mut out[room..]).ok()?,
            Self::Zstd => ZSTD_OUT.with_borrow_mut(|context| {
                context.compress(&mut out[room..], section, ZSTD_LEVEL).ok()
            })?,
        };
        if written >= section.len() {
            return None;
        }
        out.truncate(room + written);
        Some(out)
    }

    /// Decompresses a section that claims to have `claimed` bytes.
    ///
    /// The output buffer begins small and grows fourfold each time the bytes at hand have filled it,
    /// so a section must first produce a quarter of what is allocated for it.
    pub(super) fn decompress(
        self,
        stored: &[u8],
        claimed: u32,
        limit: usize,
    ) -> Result<Vec<u8>, BatchError> {
        let claimed_bytes = claimed as usize;
        if claimed_bytes > limit {
            return Err(BatchError::SectionTooLarge {
                bytes: u64::from(claimed),
                limit: limit as u64,
            });
        }
        if self == Self::Zstd {
            check_one_zstd_frame(stored)?;
        }
        let start = stored.len().saturating_mul(OUTPUT_PER_INPUT_START).max(OUTPUT_BYTES_START);
        let mut room = start.min(claimed_bytes);
        loop {
            let mut out = vec![0; room];
            match self.decompress_into(stored, &mut out) {
                Ok(produced) if produced == claimed_bytes => {
                    return Ok(out);
                }
                Ok(produced) => {
                    return Err(BatchError::SectionBytes {
                        stored: claimed,
                        actual: produced as u64,
                    });
                }
                Err(DecompressError::OutputFull) if room < claimed_bytes => {
                    room = room.saturating_mul(OUTPUT_GROWTH).min(claimed_bytes);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn decompress_into(self, stored: &[u8], out: &mut [u8]) -> Result<usize, DecompressError> {
        match self {
            Self::None => Err(DecompressError::NotCompressed),
            Self::Lz4 => {
                lz4_flex::block::decompress_into(stored, out).map_err(|error| match error {
                    lz4_flex::block::DecompressError::OutputTooSmall { .. } => {
                        DecompressError::OutputFull
                    }
                    _ => DecompressError::Lz4,
                })
            }
            Self::Zstd => ZSTD_IN.with_borrow_mut(|context| {
                context.decompress(out, stored).map_err(|code| {
                    let full = ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize;
                    if code == full.wrapping_neg() {
                        DecompressError::OutputFull
                    } else {
                        DecompressError::Zstd { reason: zstd_safe::get_error_name(code) }
                    }
                })
            }),
        }
    }
}

/// Zstandard takes several frames for one; a section has exactly one.
fn check_one_zstd_frame(stored: &[u8]) -> Result<(), BatchError> {
    let frame_bytes = zstd_safe::find_frame_compressed_size(stored)
        .map_err(|code| DecompressError::Zstd { reason: zstd_safe::get_error_name(code) })?;
    if frame_bytes == stored.len() {
        Ok(())
    } else {
        Err(BatchError::TrailingBytes { extra: stored.len().abs_diff(frame_bytes) as u64 })
    }
}

thread_local! {
    // A context takes 0.1 to 1 MB; one per thread instead of one per batch. Nothing of one batch is
    // left for the next.
    static ZSTD_OUT: RefCell<zstd_safe::CCtx<'static>> = RefCell::new(zstd_safe::CCtx::create());
    static ZSTD_IN: RefCell<zstd_safe::DCtx<'static>> = RefCell::new(zstd_safe::DCtx::create());
}

/// Why a records section cannot be decompressed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecompressError {
    /// It gives more than the header says.
    #[error("it gives more bytes than records_bytes says")]
    OutputFull,
    /// It is not compressed at all.
    #[error("it is not compressed")]
    NotCompressed,
    /// It is not an LZ4 block.
    #[error("it is not a valid LZ4 block")]
    Lz4,
    /// It is not a Zstandard frame.
    #[error("it is not a valid Zstandard frame: {reason}")]
    Zstd {
        /// The library's name of the fault.
        reason: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 64 << 20;

    #[test]
    fn sections_survive() {
        let section = b"plimsoll ".repeat(5000);
        for compression in [Compression::Lz4, Compression::Zstd] {
            let stored = compression.compress(&section, 0).unwrap();
            assert!(stored.len() < section.len() / 4);
            let back = compression.decompress(&stored, section.len() as u32, LIMIT).unwrap();
            assert_eq!(back, section);
        }
    }

    #[test]
    fn section_that_does_not_shrink_is_left() {
        let section: Vec<u8> =
            (0..64u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        assert_eq!(Compression::Lz4.compress(&section, 96), None);
        assert_eq!(Compression::Zstd.compress(&section, 96), None);
        assert_eq!(Compression::None.compress(&section, 96), None);
    }

    #[test]
    fn bomb_is_stopped_at_the_claim_and_the_limit() {
        let zeros = vec![0; 8 << 20];
        for compression in [Compression::Lz4, Compression::Zstd] {
            let bomb = compression.compress(&zeros, 0).unwrap();
            assert_eq!(
                compression.decompress(&bomb, 1000, LIMIT),
                Err(BatchError::Decompress(DecompressError::OutputFull))
            );
            assert!(matches!(
                compression.decompress(&bomb, 8 << 20, 1 << 20),
                Err(BatchError::SectionTooLarge { .. })
            ));
            assert!(matches!(
                compression.decompress(&bomb, (8 << 20) + 1, LIMIT),
                Err(BatchError::SectionBytes { .. })
            ));
            assert_eq!(compression.decompress(&bomb, 8 << 20, LIMIT), Ok(zeros.clone()));
        }
    }

    #[test]
    fn second_zstd_frame_is_refused() {
        let section = b"plimsoll ".repeat(100);
        let mut stored = Compression::Zstd.compress(&section, 0).unwrap();
        stored.extend_from_within(..);
        assert!(matches!(
            Compression::Zstd.decompress(&stored, 1800, LIMIT),
            Err(BatchError::TrailingBytes { .. })
        ));
    }
}
