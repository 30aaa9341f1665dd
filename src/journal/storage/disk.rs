//! A directory on a real disk.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use super::{Storage, StorageFile};

/// The file that a server locks while it uses the directory.
const LOCK_NAME: &str = "LOCK";

/// A directory on a real disk that only this process uses.
///
/// Files are opened relative to the directory's handle, so it may be moved or mounted over meanwhile.
#[derive(Debug)]
pub struct DiskStorage {
    directory: File,
    path: PathBuf,
    writable: bool,
    /// Never read. The system releases the lock when the file is closed, however the process ends.
    _lock: Option<File>,
}

/// Why a directory can't be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum DiskError {
    /// Another process has locked it.
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process number that the other process wrote into the lock file.
        holder: String,
    },
    /// The operating system reported an error.
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskError::Locked { path, holder } if holder.is_empty() => {
                write!(f, "{} is in use by another server", path.display())
            }
            DiskError::Locked { path, holder } => {
                write!(f, "{} is in use by another server (process {holder})", path.display())
            }
            DiskError::Io { action, path, source } => {
                write!(f, "cannot {action} {}: {source}", path.display())
            }
        }
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            DiskError::Locked { .. } => None,
            DiskError::Io { source, .. } => Some(source),
        }
    }
}

impl DiskStorage {
    /// Opens `path` for a server. Creates the directory if it does not exist (for its owner only), and locks
    /// it until this value is dropped or the process ends.
    ///
    /// # Errors
    /// [`DiskError::Locked`] if another process has locked it; [`DiskError::Io`] otherwise.
    pub fn open(path: &Path) -> Result<DiskStorage, DiskError> {
        create_directory(path)?;
        let directory = open_directory(path)?;
        let lock = lock(&directory, path, OFlags::RDWR | OFlags::CREATE)?;
        Ok(DiskStorage { directory, path: path.to_owned(), writable: true, _lock: lock })
    }

    /// Opens `path` for reading. Nothing in it is created or changed, not even the lock file. If there is
    /// one, it is locked, so that no server writes meanwhile.
    ///
    /// # Errors
    /// [`DiskError::Locked`] if a server has locked it; [`DiskError::Io`] otherwise.
    pub fn open_read_only(path: &Path) -> Result<DiskStorage, DiskError> {
        let directory = open_directory(path)?;
        let lock = lock(&directory, path, OFlags::RDONLY)?;
        Ok(DiskStorage { directory, path: path.to_owned(), writable: false, _lock: lock })
    }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> DiskError + 'a {
    move |source| DiskError::Io { action, path: path.to_owned(), source }
}

/// Creates `path` and its parents, and makes each new name durable: a journal is lost if its directory is
/// gone after a power cut.
fn create_directory(path: &Path) -> Result<(), DiskError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_directory(parent)?;
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(e) => return Err(failed("create the directory", path)(e)),
    }
    open_directory(parent)?.sync_all().map_err(failed("sync the directory", parent))
}

fn open_directory(path: &Path) -> Result<File, DiskError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty());
    fd.map(File::from).map_err(|e| failed("open the directory", path)(e.into()))
}

fn lock(directory: &File, path: &Path, flags: OFlags) -> Result<Option<File>, DiskError> {
    let lock_path = path.join(LOCK_NAME);
    let failed = |action| failed(action, &lock_path);
    let flags_all = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = match rustix::fs::openat(directory, LOCK_NAME, flags_all, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(e) => return Err(failed("open the lock file")(e.into())),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // The number is optional: the message does without it if it can't be read.
            let _ = Read::by_ref(&mut file).take(20).read_to_string(&mut holder);
            return Err(DiskError::Locked { path: path.to_owned(), holder: holder.trim().to_owned() });
        }
        Err(TryLockError::Error(e)) => return Err(failed("lock")(e)),
    }
    if flags.contains(OFlags::RDWR) {
        // Optional as well: a full disk must not prevent a start.
        let _ = file.set_len(0).and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
    }
    Ok(Some(file))
}

impl Storage for DiskStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.directory)? {
            let entry = entry?;
            let regular = match entry.file_type() {
                FileType::RegularFile => true,
                // Some file systems do not say.
                FileType::Unknown => {
                    let stat =
                        rustix::fs::statat(&self.directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                }
                _ => false,
            };
            if let Ok(name) = entry.file_name().to_str()
                && regular
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let access = if self.writable { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(&self.directory, name, flags, Mode::empty())?;
        Ok(Arc::new(DiskFile(File::from(fd))))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(&self.directory, name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(Arc::new(DiskFile(File::from(fd))))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.directory, from, &self.directory, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.directory, name, AtFlags::empty())?)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

#[derive(Debug)]
struct DiskFile(File);

impl StorageFile for DiskFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
