//! Reading a log again: its facts go into [`Restored`], and its end is judged.

use crate::history::record::{self, BootId, Clock, Entry, FILE_HEAD, RecordError, UNKNOWN_BOOT};
use crate::hub::restored::Restored;

/// What one file turned out to be, as far as it was fed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileReader {
    has_head: bool,
    /// Who wrote it; `None` for a file that nobody got to write a fact into.
    begun: Option<(BootId, bool)>,
    is_closed: bool,
    pub clock: Clock,
    pub read_bytes: u64,
    pub fault: Option<Fault>,
}

/// Why the rest of a file is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The last record is not whole: its writer was ended while it wrote, and nobody was told that it was stored.
    Torn,
    /// What is there is not what was written.
    Damaged(RecordError),
    /// Not a log, or one of another version of the format.
    Version,
}

impl FileReader {
    /// Takes whole records from the beginning of `input`, and says how many bytes they have. After a fault, none.
    pub fn feed(&mut self, input: &[u8], restored: &mut Restored) -> usize {
        let mut used = 0;
        if !self.has_head {
            let Some(head) = input.first_chunk::<{ FILE_HEAD.len() }>() else {
                return 0;
            };
            if *head != FILE_HEAD {
                self.fault = Some(Fault::Version);
                return 0;
            }
            self.has_head = true;
            used = FILE_HEAD.len();
        }
        while self.fault.is_none() {
            match record::read(&input[used..]) {
                Ok(None) => break,
                Ok(Some((entry, bytes))) => {
                    used += bytes;
                    self.take(&entry, restored);
                }
                Err(error) => self.fault = Some(Fault::Damaged(error)),
            }
        }
        self.read_bytes += used as u64;
        used
    }

    /// The file has no more than was fed, of which `left_bytes` were not used.
    pub fn end(&mut self, left_bytes: usize) {
        if left_bytes > 0 && self.fault.is_none() {
            self.fault = Some(Fault::Torn);
        }
    }

    fn take(&mut self, entry: &Entry<'_>, restored: &mut Restored) {
        match entry {
            Entry::Begin {
                boot,
                is_synced,
                clock,
            } => {
                self.begun = Some((*boot, *is_synced));
                self.clock = *clock;
            }
            Entry::Clock(clock) => self.clock = *clock,
            Entry::End(clock) => {
                self.clock = *clock;
                self.is_closed = true;
            }
            Entry::Fact(fact) => restored.apply(*fact),
        }
    }
}

/// Whether a log of these files, in order, may lack facts that somebody was told of. `boot` is the present run of the
/// kernel; what was written in an earlier one may never have come to the disk, nor what was where the kernel does not
/// say which run it is.
pub fn may_lack_facts(files: &[FileReader], boot: BootId) -> bool {
    let last = files.iter().rposition(|file| file.begun.is_some());
    let lacks = |(index, file): (usize, &FileReader)| match file.fault {
        Some(Fault::Damaged(_) | Fault::Version) => true,
        // The next file is begun only when this one is on the disk.
        Some(Fault::Torn) => last.is_some_and(|last| index < last),
        None => false,
    };
    let was_cut_off = last.is_some_and(|last| {
        let file = &files[last];
        let is_of_this_run = |run: BootId| run == boot && run != UNKNOWN_BOOT;
        let is_there = |(run, is_synced): (BootId, bool)| is_synced || is_of_this_run(run);
        !file.is_closed && !file.begun.is_some_and(is_there)
    });
    was_cut_off || files.iter().enumerate().any(lacks)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THIS: BootId = [1; 16];
    const EARLIER: BootId = [2; 16];

    fn file(boot: BootId, is_synced: bool, is_closed: bool, fault: Option<Fault>) -> FileReader {
        FileReader {
            has_head: true,
            begun: Some((boot, is_synced)),
            is_closed,
            fault,
            ..FileReader::default()
        }
    }

    #[test]
    fn what_the_kernel_had_is_there_unless_the_kernel_is_gone() {
        use Fault::{Damaged, Torn};
        let damaged = Some(Damaged(RecordError::Body));
        let unbegun = FileReader {
            fault: Some(Torn),
            ..FileReader::default()
        };
        for (files, want) in [
            (vec![], false),
            (vec![unbegun.clone()], false),
            // A killed process, with and without a record in its pen.
            (vec![file(THIS, false, false, None)], false),
            (vec![file(THIS, false, false, Some(Torn))], false),
            (vec![file(THIS, false, false, damaged)], true),
            // A machine that went down; one that was shut down; one that answered late enough.
            (vec![file(EARLIER, false, false, None)], true),
            (vec![file(EARLIER, false, true, None)], false),
            (vec![file(EARLIER, true, false, None)], false),
            (vec![file(EARLIER, true, false, Some(Torn))], false),
            (vec![file(EARLIER, true, false, damaged)], true),
            // Only the last one may be torn, and only it says how it ended.
            (
                vec![
                    file(THIS, false, false, Some(Torn)),
                    file(THIS, false, false, None),
                ],
                true,
            ),
            (
                vec![
                    file(EARLIER, false, false, None),
                    file(EARLIER, false, true, None),
                ],
                false,
            ),
            (vec![file(THIS, false, false, None), unbegun.clone()], false),
            (
                vec![file(EARLIER, false, false, None), unbegun.clone()],
                true,
            ),
        ] {
            assert_eq!(may_lack_facts(&files, THIS), want, "{files:?}");
        }
        // A kernel that does not say which run it is.
        for (is_synced, is_closed, want) in [
            (false, false, true),
            (false, true, false),
            (true, false, false),
        ] {
            let files = [file(UNKNOWN_BOOT, is_synced, is_closed, None)];
            assert_eq!(may_lack_facts(&files, UNKNOWN_BOOT), want, "{files:?}");
        }
    }
}
