//! What a shard asks the operator's backend for its connections.

use crate::api::callback::{Consultation, Decision};
use crate::api::question::Answer;
use crate::callback::Call;
use crate::shard::Shard;
use crate::shard::complaint::Complaint;
use crate::shard::mailbox::Asker;

impl Shard {
    /// `None`: the answer comes by mail.
    pub(super) fn ask_backend(
        &mut self,
        asker: Asker,
        consultation: Consultation,
    ) -> Option<Answer> {
        let address = self.client(asker.connection.index);
        let address = address.map(|address| address.ip().to_canonical());
        let config = &self.config.callback;
        let call = Call::new(consultation, address, config, self.clock.now_ms);
        let callbacks = &self.shared.callbacks;
        let decision = callbacks.ask(call, asker, config.queue_max, self.clock.now_ms)?;
        if decision == Decision::Busy {
            self.complain(Complaint::Callbacks);
        }
        Some(Answer::Authorized(decision))
    }
}
