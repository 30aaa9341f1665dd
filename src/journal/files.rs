//! The journal's directory as its writer, reserve and compaction use it: errors that name a file, the faults
//! that tests build in, and the creation of segments full of zeros.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;

use super::failure::Failure;
use super::options::{Options, Sabotage};
use super::recovery::{Spare, recycled_name, unfinished_name};
use super::segment;
use super::storage::{Storage, StorageFile, write_full};

const ZEROS_BYTES: usize = 1 << 18;

/// The journal's directory.
pub(super) struct Files {
    storage: Arc<dyn Storage>,
    sabotage: Sabotage,
    salt: Option<u64>,
    segment_bytes: u64,
}

/// A file that is to become a segment. What it holds is not needed.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub(super) name: String,
    pub(super) file: Arc<dyn StorageFile>,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").field("storage", &self.storage).finish_non_exhaustive()
    }
}

impl Files {
    /// The directory in `storage`.
    pub(super) fn new(storage: Arc<dyn Storage>, options: &Options) -> Files {
        let Options { sabotage, salt, segment_bytes, .. } = *options;
        Files { storage, sabotage, salt, segment_bytes }
    }

    /// The storage itself.
    pub(super) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// Names what failed, for `map_err`.
    pub(super) fn failed<'a>(
        &'a self,
        action: &'static str,
        name: &'a str,
    ) -> impl Fn(io::Error) -> Failure + 'a {
        move |source| Failure::Io { action, path: self.storage.path(name), source }
    }

    /// Syncs a file.
    pub(super) fn sync(&self, file: &dyn StorageFile) -> io::Result<()> {
        match file.sync_data() {
            Err(_) if self.sabotage == Sabotage::IgnoreSyncError => Ok(()),
            result => result,
        }
    }

    /// Syncs the directory.
    pub(super) fn sync_directory(&self) -> io::Result<()> {
        match self.sabotage {
            Sabotage::SkipDirectorySync => Ok(()),
            _ => self.storage.sync_directory(),
        }
    }

    /// What begins the checksums of the segment `id`.
    pub(super) fn salt(&self, id: u64) -> u64 {
        self.salt.map_or_else(random_salt, |salt| salt.wrapping_add(id))
    }

    /// Makes the segment `id` of zeros, durable under its name. It reuses the recycled file if there is one.
    pub(super) fn make_segment(&self, id: u64, recycled: Option<Unfinished>) -> Result<Spare, Failure> {
        let unfinished = match recycled {
            Some(recycled) => recycled,
            None => {
                let name = unfinished_name(id, self.salt(id));
                let file = self.storage.create(&name).map_err(self.failed("create", &name))?;
                Unfinished { name, file }
            }
        };
        let made = self.fill_and_name(id, &unfinished);
        if made.is_err() {
            // Its zeros are of no use to anybody. If it can't be removed, the next start does it.
            let _ = self.storage.remove(&unfinished.name);
        }
        made
    }

    fn fill_and_name(
        &self,
        id: u64,
        Unfinished { name: unfinished, file }: &Unfinished,
    ) -> Result<Spare, Failure> {
        let name = segment::file_name(id);
        let zeros = vec![0; ZEROS_BYTES];
        let file_bytes = self.segment_bytes;
        let mut at = 0;
        while at < file_bytes {
            let piece = &zeros[..ZEROS_BYTES.min((file_bytes - at) as usize)];
            write_full(&**file, piece, at).map_err(self.failed("write", unfinished))?;
            at += piece.len() as u64;
        }
        self.sync(&**file).map_err(self.failed("sync", unfinished))?;
        self.storage.rename(unfinished, &name).map_err(self.failed("rename", unfinished))?;
        self.sync_directory().map_err(self.failed("sync the directory of", &name))?;
        Ok(Spare { id, file: Arc::clone(file), file_bytes })
    }

    /// Removes a file durably.
    pub(super) fn remove(&self, name: &str) -> Result<(), Failure> {
        self.storage.remove(name).and_then(|()| self.sync_directory()).map_err(self.failed("remove", name))
    }

    /// Gives the segment `id` a name that marks it as unneeded, so that its file can be used again. `None` if
    /// its length is not that of a new segment.
    pub(super) fn recycle(&self, id: u64, file: Arc<dyn StorageFile>) -> io::Result<Option<Unfinished>> {
        if file.length()? != self.segment_bytes {
            return Ok(None);
        }
        let name = recycled_name(id, self.salt(id));
        self.storage.rename(&segment::file_name(id), &name)?;
        Ok(Some(Unfinished { name, file }))
    }
}

/// A number that no other segment has. It must differ from others, and those who submit jobs must not be able
/// to guess it. The keys of the standard library's hash tables are enough: they come from the system's random
/// numbers.
pub(super) fn random_salt() -> u64 {
    RandomState::new().build_hasher().finish()
}
