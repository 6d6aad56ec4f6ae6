//! Tokens on an open WebSocket: a new one in band, and the end of the old one.

use crate::api::access::{self, Verdict};
use crate::api::refusal::Refusal;
use crate::auth::Verified;
use crate::auth::grant::{Grant, Session};
use crate::hub::batch::Format;
use crate::proto::json;
use crate::proto::ws_frame::{self, Opcode};
use crate::proto::ws_message::MessageKind;
use crate::transport::goodbye::{Goodbye, TokenRefusal};
use crate::transport::{Context, Next};

use super::WebSocket;

/// The answer to a new token in `format=json`; in raw, where any frame is a message, there is none.
const REFRESHED: &[u8] = br#"{"refreshed":true}"#;

impl WebSocket {
    /// With whose token the connection was opened, or goes on; or as whom the backend knows it.
    pub(super) fn grant(&self) -> Option<&Grant> {
        Some(&*self.session()?.grant)
    }

    pub(in crate::transport) fn session(&self) -> Option<&Session> {
        self.rare.as_ref()?.session.as_ref()
    }

    fn reask_ms(&self) -> Option<u64> {
        self.session()?.reask_ms
    }

    pub(super) fn ends_ms(&self) -> Option<u64> {
        self.session()?.ends_ms
    }

    /// Takes the message for a new token, if it is one: `{"token":"…"}`. In raw a frame is the payload of a publish,
    /// and a token only where that is not allowed.
    pub(super) fn on_token(
        &mut self,
        kind: MessageKind,
        payload: &[u8],
        context: &mut Context<'_>,
    ) -> Option<Next> {
        if kind != MessageKind::Text || !context.config.auth.verifies_tokens() {
            return None;
        }
        let token = json::decode_token(payload)?;
        if self.format == Format::Raw {
            let subscription = self.subscriptions.iter().next()?;
            let channel = context.fanout.name(subscription);
            if access::may_publish_frame(context.config, channel, self.grant()) {
                return None;
            }
        }
        Some(self.refresh(&token, true, context))
    }

    /// The issuer's keys were read again.
    pub fn on_keys(&mut self, context: &mut Context<'_>) -> Next {
        let token = self.rare.as_mut().and_then(|rare| rare.token.take());
        match token {
            Some(token) if !self.has_said_goodbye() => self.refresh(&token, false, context),
            _ => Next::Stay,
        }
    }

    /// Goes on with another token.
    fn refresh(&mut self, token: &str, may_wait: bool, context: &mut Context<'_>) -> Next {
        let rare = self.rare.get_or_insert_default();
        let waits_already = rare.token.take().is_some();
        match context.gate().verify(token, may_wait) {
            Ok(Verified::Session(session)) => match self.take_over(session, context) {
                Ok(mut session) => {
                    // A token is no answer to what the backend wants to be asked.
                    if let Some(reask_ms) = self.reask_ms() {
                        session.limit(reask_ms);
                    }
                    self.rare.get_or_insert_default().session = Some(session);
                    if self.format == Format::Json {
                        context.effects.out.write(|own| {
                            ws_frame::server_header(own, Opcode::Text, REFRESHED.len());
                            own.extend_from_slice(REFRESHED);
                        });
                    }
                    Next::Stay
                }
                Err(refusal) => self.refuse_token(refusal, context),
            },
            Ok(Verified::KeyMissing) => {
                rare.token = Some(token.into());
                context.effects.awaits_keys = !waits_already;
                Next::Stay
            }
            Err(error) => self.refuse_token(error.into(), context),
        }
    }

    /// `session` for what the connection has, if that may go on with its token.
    fn take_over(
        &self,
        mut session: Session,
        context: &mut Context<'_>,
    ) -> Result<Session, TokenRefusal> {
        let user = self.grant().and_then(|grant| grant.user.as_deref());
        if user.is_some_and(|user| session.grant.user.as_deref() != Some(user)) {
            return Err(TokenRefusal::OTHER_USER);
        }
        let may_stay = self.subscriptions.iter().all(|subscription| {
            let channel = context.fanout.name(subscription);
            let verdict = access::may_subscribe(context.config, channel, Some(&session.grant));
            verdict == Verdict::Allowed
        });
        if !may_stay {
            return Err(Refusal::CHANNEL_DENIED.into());
        }
        match self.session().and_then(|session| session.seat.clone()) {
            None => context.gate().claim(&mut session)?,
            seat => session.seat = seat,
        }
        Ok(session)
    }

    fn refuse_token(&mut self, refusal: TokenRefusal, context: &mut Context<'_>) -> Next {
        let goodbye = refusal.goodbye(context.metrics);
        self.leave(goodbye, context)
    }

    /// The token and its grace are over, or the backend wants to be asked again.
    pub(super) fn expire(&mut self, context: &mut Context<'_>) -> Next {
        let is_reask = self
            .reask_ms()
            .is_some_and(|reask_ms| context.now_ms >= reask_ms);
        let goodbye = match is_reask {
            true => Goodbye::PERMISSION_EXPIRED,
            false => Goodbye::TOKEN_EXPIRED,
        };
        self.say_goodbye(&goodbye, context)
    }
}
