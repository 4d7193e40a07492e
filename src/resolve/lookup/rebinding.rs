//! Which answers the rebinding guard looks at, and what becomes of them.

use hickory_proto::rr::Name;

use super::{Chain, Ending, Lookup, MAX_EDES, is_special_use};
use crate::pkarr::NameKind;
use crate::resolve::rebinding;

impl Lookup {
    /// Whether an answer for this name must have no private addresses. It may if the operator has
    /// listed the name, given it records, or named servers for it; and if it is special, and nobody's
    /// to register. Reverse names are not exempt: a browser takes them for hosts as well, and whoever has
    /// a delegation below `ip6.arpa` can publish addresses there.
    pub(super) fn is_guarded(&self, asked: &Name) -> bool {
        let guard = &self.names.rebinding;
        if !guard.is_on() {
            return false;
        }
        let kind = self.names.suffixes.classify(asked);
        let is_trusted = guard.allows(asked)
            || self
                .key_of(&kind, asked)
                .is_some_and(|of_key| guard.allows(&of_key.in_zone))
            || kind == NameKind::Ordinary
                && (is_special_use(asked)
                    || self.names.local.has(asked)
                    || self.forward.has_rule_for(asked));
        !is_trusted
    }

    /// Takes private addresses out of an answer that must have none, and says so.
    pub(super) fn drop_private(&self, asked: &Name, chain: &mut Chain, ending: &mut Ending) {
        if !self.is_guarded(asked) {
            return;
        }
        let sections = [
            &mut chain.answers,
            &mut ending.authorities,
            &mut chain.additionals,
        ];
        if let Some(dropped) = rebinding::drop_private(sections) {
            self.names.rebinding.log(asked, &dropped);
            chain.holds_for(dropped.ttl);
            chain.verified = false;
            // It tells more than the others.
            chain.edes.insert(0, dropped.ede());
            chain.edes.truncate(MAX_EDES);
        }
    }
}
