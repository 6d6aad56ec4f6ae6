//! How much one connection may send: messages and bytes in a second.

use crate::transport::Context;
use crate::transport::token_bucket::TokenBucket;

/// A connection's share. Nothing is kept where nothing is limited, nor before the first message.
#[derive(Debug, Default)]
pub struct InboundRate(Option<Box<Buckets>>);

const _: () = assert!(size_of::<InboundRate>() == size_of::<usize>());

#[derive(Debug)]
struct Buckets {
    messages: TokenBucket,
    bytes: TokenBucket,
}

impl InboundRate {
    /// Whether there is anything to count.
    pub fn is_limited(context: &Context<'_>) -> bool {
        Limits::of(context).is_some()
    }

    /// One more message, or request; `false` if it, or bytes of those before it, came too fast.
    pub fn admit(&mut self, context: &Context<'_>) -> bool {
        let Some(limits) = Limits::of(context) else {
            return true;
        };
        let buckets = self.buckets(&limits, context.now_ms);
        limits.bytes.is_none_or(|per_second| {
            buckets.bytes.fill(per_second, context.now_ms);
            buckets.bytes.has_some()
        }) && limits
            .messages
            .is_none_or(|per_second| buckets.messages.take(1, per_second, context.now_ms))
    }

    /// So many bytes have come. They are paid for before the next message.
    pub fn charge_bytes(&mut self, bytes: usize, context: &Context<'_>) {
        if let Some(limits) = Limits::of(context)
            && let Some(per_second) = limits.bytes
        {
            let buckets = self.buckets(&limits, context.now_ms);
            buckets.bytes.fill(per_second, context.now_ms);
            buckets.bytes.charge(bytes);
        }
    }

    fn buckets(&mut self, limits: &Limits, now_ms: u64) -> &mut Buckets {
        self.0.get_or_insert_with(|| {
            Box::new(Buckets {
                messages: TokenBucket::new(limits.messages.unwrap_or(0), now_ms),
                bytes: TokenBucket::new(limits.bytes.unwrap_or(0), now_ms),
            })
        })
    }
}

/// What holds for a connection; `None` is any number.
struct Limits {
    messages: Option<usize>,
    bytes: Option<usize>,
}

impl Limits {
    /// `None` where nothing is limited: by the settings, or for the backend on its own entrance.
    fn of(context: &Context<'_>) -> Option<Self> {
        let limits = &context.config.limits;
        let limit = |setting: usize| (setting > 0).then_some(setting);
        let found = Self {
            messages: limit(limits.inbound_messages_per_second_max),
            bytes: limit(limits.inbound_bytes_per_second_max),
        };
        let is_limited = found.messages.is_some() || found.bytes.is_some();
        let is_backend = context.side.is_backend();
        (is_limited && !is_backend).then_some(found)
    }
}
