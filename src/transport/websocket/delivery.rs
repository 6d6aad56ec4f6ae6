//! What its channels bring to a WebSocket, and what becomes of it on the wire.

use super::{Closing, WebSocket};
use crate::config::SlowReader;
use crate::hub::batch::{WireForm, write_websocket};
use crate::hub::fanout::{ChannelIndex, Delivery};
use crate::proto::{json, ws_frame};
use crate::transport::goodbye::Goodbye;
use crate::transport::outbox::Waiting;
use crate::transport::outgoing::Outgoing;
use crate::transport::{Context, Next, slow_reader};

impl WebSocket {
    pub fn on_delivery(
        &mut self,
        channel: ChannelIndex,
        delivery: &Delivery,
        context: &mut Context<'_>,
    ) -> Next {
        match delivery {
            _ if self.closing == Closing::Sent => Next::Stay,
            Delivery::Messages(batch) => {
                context.metrics.delivered_messages_total += batch.messages().len() as u64;
                let policy = if context.has_backlog && self.can_tell_a_gap() {
                    slow_reader::policy(&batch.messages()[0].channel, context.config)
                } else {
                    SlowReader::Close
                };
                if policy == SlowReader::Close {
                    let bytes = batch.bytes(WireForm::WebSocket(self.format));
                    context.effects.out.share(bytes);
                } else {
                    let place = self.subscriptions.place(channel);
                    slow_reader::wait_behind(batch, place, policy, context.effects);
                }
                if let (Some(rare), Some(last)) = (&mut self.rare, batch.messages().last()) {
                    rare.own.on_delivery(last.position);
                }
                self.leave_if_due(context)
            }
            Delivery::Gap(name, position) if self.can_tell_a_gap() => {
                let gap = Waiting::gap(self.subscriptions.place(channel), name, *position);
                context.metrics.gaps_told_total += 1;
                if context.has_backlog {
                    context.effects.behind.push(gap);
                } else {
                    self.encode(&gap, &mut context.effects.out);
                }
                if let Some(rare) = &mut self.rare {
                    rare.own.on_gap(*position);
                }
                self.leave_if_due(context)
            }
            // A frame that is a payload has no room for a notice: the answer to the next handshake has.
            Delivery::Gap(..) => self.say_goodbye(&Goodbye::POSITION_LOST, context),
            Delivery::End => self.say_goodbye(&Goodbye::CHANNEL_DELETED, context),
        }
    }

    pub fn encode(&mut self, waiting: &Waiting, out: &mut Outgoing) {
        match waiting {
            Waiting::Message { message, .. } => {
                out.write(|own| write_websocket(own, message, self.format))
            }
            Waiting::Gap {
                channel, position, ..
            } => {
                let mut object = br#"{"gap":"#.to_vec();
                json::write_gap(&mut object, channel.as_str(), &position.to_string());
                object.push(b'}');
                out.write(|own| {
                    ws_frame::server_header(own, ws_frame::Opcode::Text, object.len());
                    own.extend_from_slice(&object);
                });
            }
            Waiting::Bytes { .. } => unreachable!("encoded already"),
        }
    }
}
