//! What a figure was measured on: cores, memory, kernel, and the file system under a directory.
//! A figure is never printed without it.

use std::fmt;
use std::path::{Path, PathBuf};

/// A machine, and a directory on it where the measured bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// Name of the processor, as the kernel gives it.
    pub processor: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Operating system and its release.
    pub kernel: String,
    /// File system and path of the directory; `None` where nothing local is written.
    pub directory: Option<(FileSystem, PathBuf)>,
}

/// Kind of the file system under a path, and the device it lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// `ext4`, `xfs`, `tmpfs`, ...
    pub kind: String,
    /// What is mounted there: `/dev/vda`.
    pub device: String,
}

impl FileSystem {
    /// The file system that holds `path`; `None` where the system does not say.
    pub fn of(path: &Path) -> Option<Self> {
        let path = path.canonicalize().ok()?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        find_mount(&mounts, &path)
    }

    /// Whether its files live in memory alone, so that a durable write would cost nothing.
    pub fn is_memory(&self) -> bool {
        matches!(self.kind.as_str(), "tmpfs" | "ramfs" | "devtmpfs" | "hugetlbfs")
    }
}

/// Finds the mount with the longest prefix of `path`; of several on one place the last, which
/// hides the others.
fn find_mount(mountinfo: &str, path: &Path) -> Option<FileSystem> {
    let mut best: Option<(usize, FileSystem)> = None;
    for line in mountinfo.lines() {
        // "36 35 98:0 /root /mount/point options [optional ...] - kind device super-options"
        let Some((place, source)) = line.split_once(" - ") else { continue };
        let Some(mounted_on) = place.split(' ').nth(4) else { continue };
        let mut source = source.split(' ');
        let (Some(kind), Some(device)) = (source.next(), source.next()) else { continue };
        let mounted_on = unescape(mounted_on);
        let length = mounted_on.len();
        if path.starts_with(&mounted_on) && best.as_ref().is_none_or(|(found, _)| *found <= length)
        {
            best = Some((length, FileSystem { kind: kind.to_owned(), device: unescape(device) }));
        }
    }
    best.map(|(_, file_system)| file_system)
}

/// Undoes the octal escapes of `/proc/*/mountinfo` (`\040` for a space).
fn unescape(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        match after.get(..3).and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            Some(byte) => {
                text.push(char::from(byte));
                rest = &after[3..];
            }
            None => {
                text.push('\\');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

impl Machine {
    /// Describes this machine, and the file system under `directory`.
    pub fn here(directory: Option<&Path>) -> Self {
        let directory = directory.map(|path| {
            let unknown = || FileSystem { kind: "unknown".into(), device: "unknown".into() };
            (FileSystem::of(path).unwrap_or_else(unknown), path.to_owned())
        });
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: proc_field("/proc/cpuinfo", "model name")
                .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            memory_bytes: proc_field("/proc/meminfo", "MemTotal")
                .and_then(|text| text.trim_end_matches(" kB").parse::<u64>().ok())
                .map_or(0, |kib| kib * 1024),
            kernel: kernel(),
            directory,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.cores == 1 { "core" } else { "cores" };
        write!(f, "{} {plural} ({}), ", self.cores, self.processor)?;
        if self.memory_bytes > 0 {
            write!(f, "{:.1} GiB, ", self.memory_bytes as f64 / f64::from(1 << 30))?;
        }
        f.write_str(&self.kernel)?;
        if let Some((file_system, path)) = &self.directory {
            write!(f, ", {} on {} at {}", file_system.kind, file_system.device, path.display())?;
        }
        Ok(())
    }
}

fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let system = std::env::consts::OS;
    match (system, release.trim()) {
        ("linux", "") => "Linux".to_owned(),
        ("linux", release) => format!("Linux {release}"),
        (other, _) => other.to_owned(),
    }
}

/// The first value of `name` in a file of `name : value` lines.
pub(crate) fn proc_field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(field, _)| field.trim() == name).map(|(_, value)| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
21 1 254:0 / / rw,relatime - ext4 /dev/root rw
22 21 0:20 / /tmp rw,nosuid shared:7 - tmpfs tmpfs rw
23 22 254:1 / /tmp/big\\040disk rw - xfs /dev/vdb rw
24 22 0:33 / /tmp/over rw - ext4 /dev/vdc rw
25 24 0:34 / /tmp/over rw - tmpfs none rw
";

    #[test]
    fn the_longest_and_last_mount_holds_a_path() {
        let kind_at = |path| find_mount(MOUNTS, Path::new(path)).unwrap().kind;
        assert_eq!(kind_at("/home/me"), "ext4");
        assert_eq!(kind_at("/tmp"), "tmpfs");
        assert_eq!(kind_at("/tmpfile"), "ext4");
        assert_eq!(kind_at("/tmp/big disk/data"), "xfs");
        assert_eq!(kind_at("/tmp/over/data"), "tmpfs");
    }

    #[test]
    fn memory_file_systems_are_known() {
        let here = find_mount(MOUNTS, Path::new("/tmp/x")).unwrap();
        assert!(here.is_memory());
        assert!(!find_mount(MOUNTS, Path::new("/var")).unwrap().is_memory());
    }

    #[test]
    fn this_machine_is_described() {
        let machine = Machine::here(Some(Path::new("/")));
        assert!(machine.cores > 0);
        assert!(machine.to_string().contains(" at /"), "{machine}");
    }
}
