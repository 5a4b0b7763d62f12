//! A file's content as pages that copies share until one of them is written.
//!
//! A crash image is a copy of every file, made thousands of times: it costs one pointer per 4 KiB,
//! and nothing for space that was only reserved.

use std::sync::Arc;

use super::super::BLOCK_BYTES;

pub(super) const PAGE: usize = BLOCK_BYTES;
pub(super) const SECTOR: usize = 512;
pub(super) const SECTORS_PER_PAGE: usize = PAGE / SECTOR;

/// Bytes of a file; pages that were never written are absent and read as zero.
#[derive(Debug, Clone, Default)]
pub(super) struct Pages {
    pages: Vec<Option<Arc<[u8; PAGE]>>>,
    length: u64,
}

impl Pages {
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// Grows with zeros; never shrinks.
    pub(super) fn grow(&mut self, bytes: u64) {
        if bytes > self.length {
            self.length = bytes;
            self.pages.resize((bytes as usize).div_ceil(PAGE), None);
        }
    }

    pub(super) fn write(&mut self, offset: u64, mut data: &[u8]) {
        self.grow(offset + data.len() as u64);
        let mut at = offset as usize;
        while !data.is_empty() {
            let (page, inside) = (at / PAGE, at % PAGE);
            let step = data.len().min(PAGE - inside);
            let (now, rest) = data.split_at(step);
            if let Ok(whole) = <&[u8; PAGE]>::try_from(now) {
                self.pages[page] = Some(Arc::new(*whole));
            } else {
                let bytes = self.pages[page].get_or_insert_with(|| Arc::new([0; PAGE]));
                Arc::make_mut(bytes)[inside..inside + step].copy_from_slice(now);
            }
            at += step;
            data = rest;
        }
    }

    /// Fills `buffer`; the caller has checked that the range lies inside.
    pub(super) fn read(&self, offset: u64, mut buffer: &mut [u8]) {
        let mut at = offset as usize;
        while !buffer.is_empty() {
            let (page, inside) = (at / PAGE, at % PAGE);
            let step = buffer.len().min(PAGE - inside);
            let (now, rest) = buffer.split_at_mut(step);
            match &self.pages[page] {
                Some(bytes) => now.copy_from_slice(&bytes[inside..inside + step]),
                None => now.fill(0),
            }
            at += step;
            buffer = rest;
        }
    }

    /// Takes one sector from another version of the file, growing to `length` at most.
    pub(super) fn copy_sector(&mut self, sector: u64, from: &Pages, length: u64) {
        let start = sector * SECTOR as u64;
        let end = (start + SECTOR as u64).min(from.length).min(length);
        if start >= end {
            return;
        }
        let mut bytes = [0; SECTOR];
        let bytes = &mut bytes[..(end - start) as usize];
        from.read(start, bytes);
        self.write(start, bytes);
    }

    pub(super) fn flip(&mut self, bit: u64) {
        let mut byte = [0];
        self.read(bit / 8, &mut byte);
        byte[0] ^= 1 << (bit % 8);
        self.write(bit / 8, &byte);
    }

    /// Whether both have the same length and bytes.
    pub(super) fn same_as(&self, other: &Pages) -> bool {
        const ZERO: [u8; PAGE] = [0; PAGE];
        self.length == other.length
            && self.pages.iter().zip(&other.pages).all(|pair| match pair {
                (None, None) => true,
                (Some(one), Some(two)) => Arc::ptr_eq(one, two) || one == two,
                (Some(one), None) | (None, Some(one)) => **one == ZERO,
            })
    }
}
