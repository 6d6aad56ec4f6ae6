//! How a shard with nothing to do waits: monoio parks the thread on the shard's eventfd and on the clock.

use std::future::Future;
use std::io;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::time::Duration;

use monoio::fs::File;

/// One armed read of the eventfd. It outlives a wait that the clock has ended: a read that is dropped may already
/// have taken the signal with it.
pub(super) struct Parking {
    signal: Pin<Box<dyn Future<Output = io::Result<()>>>>,
    wake: std::rc::Rc<File>,
}

impl Parking {
    /// `wake` must be in blocking mode, or the read would not wait.
    pub(super) fn new(wake: BorrowedFd<'_>) -> io::Result<Self> {
        let wake = std::rc::Rc::new(File::from_std(std::fs::File::from(
            wake.try_clone_to_owned()?,
        ))?);
        Ok(Self {
            signal: Box::pin(read(wake.clone())),
            wake,
        })
    }

    /// Waits for the signal, `timeout_ms` at most. A signal given since the last wait ends it at once.
    pub(super) async fn park(&mut self, timeout_ms: Option<u64>) -> io::Result<()> {
        let signalled = match timeout_ms {
            None => Some((&mut self.signal).await),
            Some(ms) => monoio::time::timeout(Duration::from_millis(ms.max(1)), &mut self.signal)
                .await
                .ok(),
        };
        if let Some(result) = signalled {
            result?;
            self.signal = Box::pin(read(self.wake.clone()));
        }
        Ok(())
    }
}

/// Takes the signal, however often it was given.
async fn read(wake: std::rc::Rc<File>) -> io::Result<()> {
    let (result, _) = wake.read_at(vec![0; 8], 0).await;
    result.map(|_| ())
}
