//! Whether the stream still has what an earlier connection has heard of it last.
//!
//! A server that comes back with an older state gives numbers out again, and the very same one may go to the very same
//! channel before any node asks. Its time tells them apart. What was stored before is there if the newest is: a stream
//! loses its end.

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::backplane::broker::{BrokerError, Trace};

use super::link::{Refusal, Shared};
use super::reader::{LEADER_DELAY, MESSAGE_NOT_FOUND};
use super::{Nats, entry};

impl Shared {
    /// Something of the stream has come, live.
    pub(super) fn trace(&self, trace: Trace) {
        let mut newest = self.newest();
        if newest.is_none_or(|newest| newest.position.offset < trace.position.offset) {
            *newest = Some(trace);
        }
    }
}

impl Nats {
    /// `false` if it is lost; then everybody hears of another epoch.
    pub(super) async fn recall(&self, trace: Trace) -> Result<bool, BrokerError> {
        if trace.position.epoch != self.epoch || self.has(trace).await? {
            return Ok(true);
        }
        // A leader that is about to be none may have answered.
        sleep(LEADER_DELAY).await;
        if self.has(trace).await? {
            return Ok(true);
        }
        let stream = self.stream().await?;
        self.renew_epoch(&stream).await?;
        Ok(false)
    }

    async fn has(&self, trace: Trace) -> Result<bool, BrokerError> {
        let request = json!({ "seq": trace.position.offset });
        match self
            .link
            .ask("STREAM.MSG.GET", &self.stream, &request)
            .await?
        {
            Ok(answer) => {
                let time = answer.pointer("/message/time").and_then(Value::as_str);
                Ok(time.and_then(entry::time_us) == Some(trace.published_us))
            }
            // It may have gone for its age or number.
            Err(refusal) if refusal.code == MESSAGE_NOT_FOUND => {
                Ok(trace.position.offset <= self.stream().await?.last)
            }
            Err(refusal) => Err(Refusal::into_error(refusal)),
        }
    }
}
