//! EDNS (RFC 6891): the OPT of a query, read strictly and without regard for what its options mean to
//! a library, and the OPT of a reply.

use std::ops::Range;
use std::sync::Arc;

use super::TCP_IDLE_TIMEOUT;
use super::admit::Transport;
use super::cookies::{QueryCookie, ReplyCookie};
use crate::resolve::UDP_PAYLOAD_LEN;
use crate::wire::{Layout, OPTION_EDE, RecordAt, Section, write_at};

/// The type of the OPT pseudo-record (RFC 6891 section 6.1.1).
pub(super) const OPT: u16 = 41;
/// The version that is spoken (RFC 6891 section 6.1.3).
pub(super) const VERSION: u8 = 0;
/// The least that every client can take over UDP (RFC 1035 section 2.3.4).
pub(super) const MIN_PAYLOAD: u16 = 512;
/// The DO bit among the flags (RFC 3225 section 3).
const DO: u8 = 0x80;
/// Name server identifier (RFC 5001 section 2.3).
const NSID: u16 = 3;
/// DNS cookie (RFC 7873 section 4).
const COOKIE: u16 = 10;
/// How long an idle TCP connection stays open (RFC 7828 section 3.1).
const TCP_KEEPALIVE: u16 = 11;
/// An option code for local use, which no library takes apart (RFC 6891 section 9).
const LOCAL_USE: u16 = 65_001;

/// The OPT of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueryOpt<'a> {
    /// The EDNS version; the rest means little if it is not [`VERSION`].
    pub(super) version: u8,
    /// The largest datagram that the client takes; at least [`MIN_PAYLOAD`].
    pub(super) payload: u16,
    /// The client wants DNSSEC records.
    pub(super) dnssec_ok: bool,
    /// Its cookie.
    pub(super) cookie: Option<QueryCookie<'a>>,
    /// It wants to know who answers.
    pub(super) nsid: bool,
    /// It wants to know how long its connection may be idle.
    pub(super) keepalive: bool,
    /// It is the only OPT, belongs to the root, and so on.
    pub(super) well_formed: bool,
    /// Where the options lie.
    rdata: Range<usize>,
}

impl<'a> QueryOpt<'a> {
    /// The OPT of a message, if it has any.
    pub(super) fn read(message: &'a [u8], layout: &Layout, transport: Transport) -> Option<Self> {
        let is_opt = |record: &&RecordAt| record.rtype == OPT;
        let mut found = layout.section(Section::Additional).filter(is_opt);
        let record = found.next()?;
        let [_, version, flags, _] = record.ttl.to_be_bytes();
        let mut opt = Self {
            version,
            // RFC 6891 section 6.2.3: values lower than 512 are 512.
            payload: record.class.max(MIN_PAYLOAD),
            // RFC 6891 section 6.1.4: the other flags are ignored.
            dnssec_ok: flags & DO != 0,
            cookie: None,
            nsid: false,
            keepalive: false,
            // RFC 6891 section 6.1.1: no more than one. Section 6.1.2: its name is the root.
            well_formed: found.next().is_none() && message.get(record.start) == Some(&0),
            rdata: record.rdata.clone(),
        };
        let options = message.get(record.rdata.clone()).unwrap_or_default();
        // The options of another version may be anything.
        if version == VERSION && opt.take(options, transport).is_none() {
            opt.well_formed = false;
        }
        Some(opt)
    }

    /// Takes in the options; `None` if they are malformed.
    fn take(&mut self, mut options: &'a [u8], transport: Transport) -> Option<()> {
        let mut cookies = 0;
        while !options.is_empty() {
            let (&[c0, c1, l0, l1], rest) = options.split_first_chunk()?;
            let length = usize::from(u16::from_be_bytes([l0, l1]));
            let (data, rest) = rest.split_at_checked(length)?;
            options = rest;
            match u16::from_be_bytes([c0, c1]) {
                // RFC 5001 section 2.1: what it contains is ignored.
                NSID => self.nsid = true,
                COOKIE => {
                    cookies += 1;
                    // RFC 7873 section 5.2: the first one counts, all others are ignored.
                    if cookies == 1 {
                        self.cookie = Some(QueryCookie::read(data)?);
                    }
                }
                // RFC 7828 section 3.3.1: ignored over UDP.
                TCP_KEEPALIVE if transport == Transport::Tcp => {
                    // RFC 7828 section 3.2.1: a client tells no time.
                    if !data.is_empty() {
                        return None;
                    }
                    self.keepalive = true;
                }
                // RFC 6891 section 6.1.2: unknown options are ignored.
                _ => {}
            }
        }
        Some(())
    }

    /// Makes one option out of all in `message`, of a code that means nothing, so that a parser that
    /// is strict about the ones it knows does not refuse the query for them.
    pub(super) fn blank_options(&self, message: &mut [u8]) {
        const HEAD_LEN: usize = 4;
        let options = message.get_mut(self.rdata.clone()).unwrap_or_default();
        let Some(length) = options.len().checked_sub(HEAD_LEN) else {
            return;
        };
        options.fill(0);
        write_at(options, 0, &LOCAL_USE.to_be_bytes());
        write_at(
            options,
            2,
            &u16::try_from(length).unwrap_or(0).to_be_bytes(),
        );
    }
}

/// The OPT of a reply, except for what depends on the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReplyOpt {
    /// The DO bit, which is copied (RFC 3225 section 3).
    pub(super) dnssec_ok: bool,
    /// To a client that sent one.
    pub(super) cookie: Option<ReplyCookie>,
    /// To a client that asked, if there is one.
    pub(super) nsid: Option<Arc<str>>,
    /// To a client that asked, over TCP.
    pub(super) keepalive: bool,
}

/// What a reply does without for want of room: each the same as the one before it, and something more.
/// The cookie always stays: a client that knows ours would drop the reply (RFC 7873 section 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Without {
    Nothing,
    EdeTexts,
    Edes,
    Nsid,
    Keepalive,
}

impl Without {
    /// In the order in which they are tried.
    pub(super) const ALL: [Self; 5] = [
        Self::Nothing,
        Self::EdeTexts,
        Self::Edes,
        Self::Nsid,
        Self::Keepalive,
    ];
}

/// An Extended DNS Error: INFO-CODE and text.
pub(super) type EdeRef<'a> = (u16, &'a str);

impl ReplyOpt {
    /// Appends the record to a message. `rcode` is all 12 bits of it.
    pub(super) fn append_to<'e>(
        &self,
        message: &mut Vec<u8>,
        rcode: u16,
        edes: impl IntoIterator<Item = EdeRef<'e>>,
        without: Without,
    ) {
        let [_, rcode_high] = (rcode >> 4).to_be_bytes();
        message.push(0);
        message.extend(OPT.to_be_bytes());
        message.extend(UDP_PAYLOAD_LEN.to_be_bytes());
        message.extend([rcode_high, VERSION, if self.dnssec_ok { DO } else { 0 }, 0]);
        let length_at = message.len();
        message.extend([0, 0]);
        if let Some(cookie) = &self.cookie {
            append_option(message, COOKIE, &[cookie]);
        }
        if without < Without::Edes {
            for (code, text) in edes {
                let text = if without < Without::EdeTexts {
                    text
                } else {
                    ""
                };
                append_option(message, OPTION_EDE, &[&code.to_be_bytes(), text.as_bytes()]);
            }
        }
        if let Some(nsid) = self.nsid.as_ref().filter(|_| without < Without::Nsid) {
            append_option(message, NSID, &[nsid.as_bytes()]);
        }
        if self.keepalive && without < Without::Keepalive {
            // In units of 100 ms (RFC 7828 section 3.1).
            let units = TCP_IDLE_TIMEOUT.as_millis() / 100;
            let units = u16::try_from(units).unwrap_or(u16::MAX);
            append_option(message, TCP_KEEPALIVE, &[&units.to_be_bytes()]);
        }
        let length = message.len().saturating_sub(length_at + 2);
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        write_at(message, length_at, &length.to_be_bytes());
    }
}

/// Appends an option, unless its length does not fit its field.
fn append_option(message: &mut Vec<u8>, code: u16, parts: &[&[u8]]) {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let Ok(length) = u16::try_from(length) else {
        return;
    };
    message.extend(code.to_be_bytes());
    message.extend(length.to_be_bytes());
    for part in parts {
        message.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query with these additional records.
    fn query(additionals: &[&[u8]]) -> Vec<u8> {
        let count = u8::try_from(additionals.len()).unwrap();
        let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, count];
        message.extend(b"\x01a\x00\x00\x01\x00\x01");
        message.extend(additionals.concat());
        message
    }

    fn opt(payload: u16, version: u8, flags: u16, options: &[u8]) -> Vec<u8> {
        let mut opt = vec![0, 0, 41];
        opt.extend(payload.to_be_bytes());
        opt.extend([0, version]);
        opt.extend(flags.to_be_bytes());
        opt.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
        opt.extend(options);
        opt
    }

    fn read(message: &[u8], transport: Transport) -> Option<QueryOpt<'_>> {
        QueryOpt::read(message, &Layout::read(message).unwrap(), transport)
    }

    /// Reads the OPT of a query that has these options, over UDP and over TCP.
    fn with_options(options: &[u8], check: impl Fn(QueryOpt<'_>, Transport)) {
        let message = query(&[&opt(1232, 0, 0, options)]);
        for transport in [Transport::Udp, Transport::Tcp] {
            check(read(&message, transport).unwrap(), transport);
        }
    }

    #[test]
    fn rfc6891_6_1_1_the_opt_may_stand_anywhere_in_the_additional_section() {
        let other = b"\x00\x00\x10\x00\x01\x00\x00\x00\x00\x00\x02\x01a";
        assert_eq!(read(&query(&[]), Transport::Udp), None);
        assert_eq!(read(&query(&[other]), Transport::Udp), None);
        let opt = opt(1400, 0, 0x8000, b"\x00\x03\x00\x00");
        for additionals in [
            &[&opt[..]][..],
            &[&other[..], &opt],
            &[&opt, &other[..]],
            &[&other[..], &opt, &other[..]],
        ] {
            let message = query(additionals);
            let found = read(&message, Transport::Udp).unwrap();
            assert!(found.well_formed && found.dnssec_ok && found.nsid);
            assert_eq!((found.version, found.payload), (0, 1400));
        }
    }

    #[test]
    fn rfc6891_6_1_1_two_opts_are_malformed() {
        let opt = opt(1400, 0, 0, &[]);
        let message = query(&[&opt, &opt]);
        assert!(!read(&message, Transport::Udp).unwrap().well_formed);
    }

    #[test]
    fn rfc6891_6_1_2_the_owner_is_the_root() {
        for owner in [&b"\x01a\x00"[..], b"\xc0\x0c", b"\xc0\x0e"] {
            let opt = [owner, &opt(1400, 0, 0, &[])[1..]].concat();
            let message = query(&[&opt]);
            assert!(!read(&message, Transport::Udp).unwrap().well_formed);
        }
    }

    #[test]
    fn rfc6891_6_1_4_other_flags_are_ignored() {
        for flags in [0x7fff, 0xffff, 1, 0x8000, 0] {
            let message = query(&[&opt(1400, 0, flags, &[])]);
            let found = read(&message, Transport::Udp).unwrap();
            assert!(found.well_formed);
            assert_eq!(found.dnssec_ok, flags >= 0x8000);
        }
    }

    #[test]
    fn rfc6891_6_2_3_sizes_under_512_are_512() {
        for (size, read_as) in [
            (0, 512),
            (511, 512),
            (512, 512),
            (513, 513),
            (65_535, 65_535),
        ] {
            let message = query(&[&opt(size, 0, 0, &[])]);
            assert_eq!(read(&message, Transport::Udp).unwrap().payload, read_as);
        }
    }

    #[test]
    fn rfc6891_6_1_2_options_must_fill_the_record() {
        for (options, well_formed) in [
            (&b""[..], true),
            (b"\xfe", false),
            (b"\xfe\x00\x00", false),
            (b"\xfe\x00\x00\x00", true),
            (b"\xfe\x00\x00\x01", false),
            (b"\xfe\x00\x00\x01x", true),
            (b"\xfe\x00\x00\x01xx", false),
            (b"\xfe\x00\x00\x01x\xfe\x00\x00\x00", true),
            (b"\xfe\x00\x00\x01x\xfe\x00\xff\xff", false),
        ] {
            with_options(options, |opt, _| {
                assert_eq!(opt.well_formed, well_formed, "{options:?}");
            });
        }
    }

    #[test]
    fn rfc7828_3_keepalive_is_empty_and_only_for_tcp() {
        with_options(b"\x00\x0b\x00\x00", |opt, transport| {
            assert!(opt.well_formed);
            assert_eq!(opt.keepalive, transport == Transport::Tcp);
        });
        with_options(b"\x00\x0b\x00\x02\x00\x64", |opt, transport| {
            assert!(!opt.keepalive);
            assert_eq!(opt.well_formed, transport == Transport::Udp);
        });
    }

    #[test]
    fn rfc7873_5_2_the_first_cookie_counts() {
        let cookie = |byte: u8, length: u8| {
            [&[0, 10, 0, length], &vec![byte; usize::from(length)][..]].concat()
        };
        let expected = QueryCookie::read(&[1; 8]);
        for second in [8, 24, 3, 0] {
            let options = [cookie(1, 8), cookie(2, second)].concat();
            with_options(&options, |opt, _| {
                assert!(opt.well_formed, "{second}");
                assert_eq!(opt.cookie, expected);
            });
        }
        let options = [cookie(1, 3), cookie(2, 8)].concat();
        with_options(&options, |opt, _| assert!(!opt.well_formed));
    }

    #[test]
    fn a_blanked_message_has_its_length_and_one_option_that_means_nothing() {
        for (options, blanked) in [
            (&b""[..], &b""[..]),
            (b"\x00\x08\x00\x00", b"\xfd\xe9\x00\x00"),
            (
                b"\x00\x08\x00\x01x\x00\x0a\x00\x02yz",
                b"\xfd\xe9\x00\x07\x00\x00\x00\x00\x00\x00\x00",
            ),
        ] {
            let mut message = query(&[&opt(1400, 0, 0, options)]);
            let original = message.clone();
            let read = read(&original, Transport::Udp).unwrap();
            read.blank_options(&mut message);
            assert_eq!(message, query(&[&opt(1400, 0, 0, blanked)]));
        }
    }
}
