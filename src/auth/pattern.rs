//! Lists of channels in tokens and API keys: names, `prefix*`, `*`.

/// A list of channels. Empty, it holds none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(Box<[Box<str>]>);

impl Patterns {
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Self {
        Self(patterns.into_iter().map(Into::into).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the channel of this name is in the list. `*` stands for any end, the empty one too; elsewhere than at
    /// the end it stands for nothing, since no channel has it in its name.
    pub fn contains(&self, channel: &str) -> bool {
        self.0
            .iter()
            .any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => channel.starts_with(prefix),
                None => **pattern == *channel,
            })
    }

    /// Whether every channel that begins like this is in the list.
    pub fn contains_all_of(&self, prefix: &str) -> bool {
        self.0.iter().any(|pattern| {
            pattern
                .strip_suffix('*')
                .is_some_and(|own| prefix.starts_with(own))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(patterns: &[&str], channel: &str, contains: bool, contains_all: bool) {
        let list = Patterns::new(patterns.iter().copied());
        assert_eq!(
            list.contains(channel),
            contains,
            "{channel} in {patterns:?}"
        );
        assert_eq!(
            list.contains_all_of(channel),
            contains_all,
            "{channel}… in {patterns:?}"
        );
    }

    #[test]
    fn a_list_holds_names_and_beginnings_of_names() {
        check(&[], "news", false, false);
        check(&["news"], "news", true, false);
        check(&["news"], "news2", false, false);
        check(&["news"], "new", false, false);
        check(&["news"], "News", false, false);
        check(&["a", "news"], "news", true, false);
        check(&["chat:*"], "chat:42", true, true);
        check(&["chat:*"], "chat:", true, true);
        check(&["chat:*"], "chat", false, false);
        check(&["chat:*"], "chats:1", false, false);
        check(&["*"], "anything", true, true);
        check(&["*"], "", true, true);
        check(&["c*t"], "cat", false, false);
        check(&["*at"], "cat", false, false);
        check(&["chat:4*", "chat:42"], "chat:42", true, true);
        check(&["chat:42*"], "chat:4", false, false);
    }
}
