//! Power failures: which of the unsynced changes reached the medium.
//!
//! A sector that was written several times since the last sync may hold any of its versions; it is
//! never a mixture inside itself. Names and lengths are the file system's own and mostly keep their
//! order; plans exist for the case that they do not.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::medium::{Change, FileId, Inode, Medium, Names, Node, Op, parent};
use super::pages::{Pages, SECTOR, SECTORS_PER_PAGE};
use super::random::SplitMix;

/// What survives of the bytes that were written and not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SurvivingData {
    /// Nothing.
    Nothing,
    /// Everything.
    Everything,
    /// The first so many pending writes of the whole medium, in the order of writing.
    First(usize),
    /// One pending write, counted over the whole medium: its sectors, as they were just after it.
    Only(usize),
    /// Everything but the sectors of one pending write, which are as they were just before it.
    AllBut(usize),
    /// Each 512-byte sector by itself holds one of its versions, chosen by the seed.
    Sectors(u64),
    /// Each 4096-byte page by itself holds one of its versions, chosen by the seed.
    Pages(u64),
}

/// What survives of names and lengths that were changed and not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SurvivingNames {
    /// Nothing.
    Nothing,
    /// Everything.
    Everything,
    /// The first so many changes of the whole medium, in their order.
    First(usize),
    /// Any subset of the changes, chosen by the seed; each rename is whole or absent.
    Subset(u64),
}

/// What survives of a direct write that was being carried out when the power failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InFlight {
    /// Nothing: it had not begun.
    Nothing,
    /// So many sectors from its beginning.
    Head(u64),
    /// All but so many sectors from its beginning.
    Tail(u64),
    /// Each sector or not, chosen by the seed.
    Sectors(u64),
}

/// One outcome of a power failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashPlan {
    /// Bytes.
    pub data: SurvivingData,
    /// Names and lengths.
    pub names: SurvivingNames,
    /// The direct write that was not finished, if there was one.
    pub in_flight: InFlight,
}

impl CrashPlan {
    /// Only what was synced.
    pub const NOTHING: Self = Self {
        data: SurvivingData::Nothing,
        names: SurvivingNames::Nothing,
        in_flight: InFlight::Nothing,
    };

    /// All that was written, synced or not.
    pub const EVERYTHING: Self = Self {
        data: SurvivingData::Everything,
        names: SurvivingNames::Everything,
        in_flight: InFlight::Nothing,
    };

    /// An outcome chosen by a seed, over all that a medium may do.
    pub fn random(seed: u64) -> Self {
        let mut random = SplitMix::new(seed);
        let data = match random.below(8) {
            0 => SurvivingData::Nothing,
            1 => SurvivingData::Everything,
            2 => SurvivingData::First(random.below(16) as usize),
            3 => SurvivingData::Only(random.below(16) as usize),
            4 => SurvivingData::AllBut(random.below(16) as usize),
            5 => SurvivingData::Pages(random.number()),
            _ => SurvivingData::Sectors(random.number()),
        };
        let names = match random.below(6) {
            0 => SurvivingNames::Nothing,
            1 | 2 => SurvivingNames::Everything,
            3 | 4 => SurvivingNames::First(random.below(8) as usize),
            _ => SurvivingNames::Subset(random.number()),
        };
        let in_flight = match random.below(5) {
            0 => InFlight::Nothing,
            1 => InFlight::Head(random.below(17)),
            2 => InFlight::Tail(random.below(17)),
            _ => InFlight::Sectors(random.number()),
        };
        Self { data, names, in_flight }
    }
}

/// What a crash can choose from, at one moment: bounds for plans that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choices {
    /// Pending writes of the whole medium.
    pub writes: usize,
    /// Pending changes of names and lengths.
    pub names: usize,
}

/// Counts what is pending.
pub(super) fn choices(medium: &Medium) -> Choices {
    let pending = || medium.inodes.values().flat_map(|inode| &inode.pending);
    let is_write = |change: &Change| matches!(change, Change::Write { .. });
    let writes = pending().filter(|pending| is_write(&pending.change)).count();
    let names = pending().count() - writes + medium.pending_names.len();
    Choices { writes, names }
}

/// The medium that a process finds after the power failed.
pub(super) fn crash(medium: &Medium, in_flight: Option<&Op>, plan: &CrashPlan) -> Medium {
    let metadata = surviving_metadata(medium, plan.names);
    let names = surviving_names(medium, &metadata);
    let writes = ordered_writes(medium);
    let files = referenced(&names);
    let images = files.into_iter().map(|file| {
        let mut pages = surviving_pages(file, medium.inode(file), plan.data, &metadata, &writes);
        if let Some(Op::Write { file: target, offset, data, direct: true }) = in_flight
            && *target == file
        {
            tear(&mut pages, *offset, data, plan.in_flight);
        }
        (file, pages)
    });
    let images: Vec<_> = images.collect();
    let mut image = Medium::settled(names, images);
    image.direct_access = medium.direct_access;
    image.boots = medium.boots + 1;
    image
}

/// Orders of the changes of names and lengths that survive.
fn surviving_metadata(medium: &Medium, plan: SurvivingNames) -> BTreeSet<u64> {
    let lengths = medium.inodes.values().flat_map(|inode| &inode.pending);
    let lengths = lengths.filter(|pending| matches!(pending.change, Change::Allocate { .. }));
    let orders: BTreeSet<u64> = (lengths.map(|pending| pending.order))
        .chain(medium.pending_names.iter().map(|pending| pending.order))
        .collect();
    match plan {
        SurvivingNames::Nothing => BTreeSet::new(),
        SurvivingNames::Everything => orders,
        SurvivingNames::First(count) => orders.into_iter().take(count).collect(),
        SurvivingNames::Subset(seed) => {
            let mut random = SplitMix::new(seed);
            orders.into_iter().filter(|_| random.chance(50)).collect()
        }
    }
}

fn surviving_names(medium: &Medium, metadata: &BTreeSet<u64>) -> Names {
    let mut names = medium.durable_names.clone();
    for pending in &medium.pending_names {
        if metadata.contains(&pending.order) {
            pending.change.apply(&mut names);
        }
    }
    // What lies in a directory that was lost is lost with it.
    let paths: Vec<String> = names.keys().cloned().collect();
    for path in paths {
        if !path.is_empty() && names.get(parent(&path)) != Some(&Node::Directory) {
            names.remove(&path);
        }
    }
    names
}

fn referenced(names: &Names) -> BTreeSet<FileId> {
    let files = names.values().filter_map(|node| match node {
        Node::File(file) => Some(*file),
        Node::Directory => None,
    });
    files.collect()
}

/// Orders of all pending writes of the medium, so that a plan can count them.
fn ordered_writes(medium: &Medium) -> Vec<u64> {
    let pending = medium.inodes.values().flat_map(|inode| &inode.pending);
    let writes = pending.filter(|pending| matches!(pending.change, Change::Write { .. }));
    let mut orders: Vec<u64> = writes.map(|pending| pending.order).collect();
    orders.sort_unstable();
    orders
}

/// The content of one file after the crash: for each dirty sector, one of its versions.
fn surviving_pages(
    file: FileId,
    inode: &Inode,
    plan: SurvivingData,
    metadata: &BTreeSet<u64>,
    writes: &[u64],
) -> Pages {
    let mut image = inode.durable.clone();
    if inode.pending.is_empty() {
        return image;
    }
    for pending in &inode.pending {
        if let Change::Allocate { bytes } = pending.change
            && metadata.contains(&pending.order)
        {
            image.grow(bytes);
        }
    }
    let order_of = |count: usize| writes.get(count).copied();
    match plan {
        SurvivingData::Nothing => {}
        SurvivingData::Everything => apply_writes(&mut image, inode, |_| true),
        SurvivingData::First(count) => {
            let end = order_of(count).unwrap_or(u64::MAX);
            apply_writes(&mut image, inode, |order| order < end);
        }
        SurvivingData::Only(index) => {
            let Some(only) = order_of(index) else { return image };
            let Some(sectors) = sectors_of(inode, only) else { return image };
            let version = version_after(inode, only);
            for sector in sectors {
                image.copy_sector(sector, &version, u64::MAX);
            }
        }
        SurvivingData::AllBut(index) => {
            let lost = order_of(index);
            let before = image.clone();
            apply_writes(&mut image, inode, |_| true);
            let Some((lost, sectors)) =
                lost.and_then(|lost| Some((lost, sectors_of(inode, lost)?)))
            else {
                return image;
            };
            // Built from what the medium held, so that a write at the end leaves zeros, and the
            // length that later writes gave the file stays.
            let mut version = before;
            version.grow(image.len());
            apply_writes(&mut version, inode, |order| order < lost);
            for sector in sectors {
                image.copy_sector(sector, &version, u64::MAX);
            }
        }
        SurvivingData::Sectors(seed) => random_versions(&mut image, file, inode, seed, 1),
        SurvivingData::Pages(seed) => {
            random_versions(&mut image, file, inode, seed, SECTORS_PER_PAGE as u64);
        }
    }
    image
}

fn apply_writes(image: &mut Pages, inode: &Inode, survives: impl Fn(u64) -> bool) {
    for pending in &inode.pending {
        if let Change::Write { offset, data } = &pending.change
            && survives(pending.order)
        {
            image.write(*offset, data);
        }
    }
}

/// The cache's content of a file just after one of its pending writes.
fn version_after(inode: &Inode, order: u64) -> Pages {
    let mut version = inode.durable.clone();
    apply_writes(&mut version, inode, |other| other <= order);
    version
}

fn sectors_of(inode: &Inode, order: u64) -> Option<RangeInclusive<u64>> {
    inode.pending.iter().find(|pending| pending.order == order).and_then(|pending| {
        match &pending.change {
            Change::Write { offset, data } => sectors(*offset, data.len()),
            Change::Allocate { .. } => None,
        }
    })
}

fn sectors(offset: u64, bytes: usize) -> Option<RangeInclusive<u64>> {
    let last = (offset + bytes as u64).checked_sub(1)?;
    (bytes > 0).then(|| offset / SECTOR as u64..=last / SECTOR as u64)
}

/// Each unit of `unit` sectors that has a pending write gets one of its versions.
fn random_versions(image: &mut Pages, file: FileId, inode: &Inode, seed: u64, unit: u64) {
    let mut random = SplitMix::new(seed ^ (u64::from(file.0) << 32));
    // The version of each dirty unit: how many of the writes that touch it have reached it.
    let mut touching: BTreeMap<u64, u64> = BTreeMap::new();
    for pending in &inode.pending {
        if let Change::Write { offset, data } = &pending.change
            && let Some(sectors) = sectors(*offset, data.len())
        {
            for touched in sectors.start() / unit..=sectors.end() / unit {
                *touching.entry(touched).or_default() += 1;
            }
        }
    }
    for reached in touching.values_mut() {
        *reached = random.below(*reached + 1);
    }
    for pending in &inode.pending {
        let Change::Write { offset, data } = &pending.change else { continue };
        let Some(sectors) = sectors(*offset, data.len()) else { continue };
        let last_sector = *sectors.end();
        for sector in sectors {
            let unit_of_sector = sector / unit;
            let reached = touching[&unit_of_sector];
            if reached > 0 {
                let start = (sector * SECTOR as u64).max(*offset);
                let end = ((sector + 1) * SECTOR as u64).min(offset + data.len() as u64);
                let bytes = &data[(start - offset) as usize..(end - offset) as usize];
                image.write(start, bytes);
            }
            let leaves_unit = sector == last_sector || (sector + 1) / unit != unit_of_sector;
            if reached > 0 && leaves_unit {
                *touching.get_mut(&unit_of_sector).expect("it was counted") -= 1;
            }
        }
    }
}

/// A direct write that was cut: each sector of it is the old one or the new one.
fn tear(image: &mut Pages, offset: u64, data: &[u8], plan: InFlight) {
    let mut random = SplitMix::new(match plan {
        InFlight::Sectors(seed) => seed,
        _ => 0,
    });
    for (number, sector) in data.chunks(SECTOR).enumerate() {
        let number = number as u64;
        let survives = match plan {
            InFlight::Nothing => false,
            InFlight::Head(count) => number < count,
            InFlight::Tail(count) => number >= count,
            InFlight::Sectors(_) => random.chance(50),
        };
        if survives {
            image.write(offset + number * SECTOR as u64, sector);
        }
    }
}
