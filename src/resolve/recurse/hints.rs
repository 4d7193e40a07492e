//! Where the root's name servers are.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// The longest file of hints that is read; the public one has 3 KiB.
const MAX_FILE_LEN: u64 = 64 << 10;
/// The most addresses of root servers. The root has 13 servers with two each; each one is a place that
/// a question may be sent to.
const MAX_ROOT_SERVERS: usize = 64;

/// The addresses of a.root-servers.net to m.root-servers.net, as in the file `named.root` of
/// 18 April 2024 (root zone 2024041801) that IANA publishes and Debian ships in dns-root-data.
const ROOT_SERVERS: [(Ipv4Addr, [u16; 8]); 13] = [
    (v4(198, 41, 0, 4), [0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30]),
    (v4(170, 247, 170, 2), [0x2801, 0x1b8, 0x10, 0, 0, 0, 0, 0xb]),
    (v4(192, 33, 4, 12), [0x2001, 0x500, 2, 0, 0, 0, 0, 0xc]),
    (v4(199, 7, 91, 13), [0x2001, 0x500, 0x2d, 0, 0, 0, 0, 0xd]),
    (
        v4(192, 203, 230, 10),
        [0x2001, 0x500, 0xa8, 0, 0, 0, 0, 0xe],
    ),
    (v4(192, 5, 5, 241), [0x2001, 0x500, 0x2f, 0, 0, 0, 0, 0xf]),
    (
        v4(192, 112, 36, 4),
        [0x2001, 0x500, 0x12, 0, 0, 0, 0, 0xd0d],
    ),
    (v4(198, 97, 190, 53), [0x2001, 0x500, 1, 0, 0, 0, 0, 0x53]),
    (v4(192, 36, 148, 17), [0x2001, 0x7fe, 0, 0, 0, 0, 0, 0x53]),
    (
        v4(192, 58, 128, 30),
        [0x2001, 0x503, 0xc27, 0, 0, 0, 2, 0x30],
    ),
    (v4(193, 0, 14, 129), [0x2001, 0x7fd, 0, 0, 0, 0, 0, 1]),
    (v4(199, 7, 83, 42), [0x2001, 0x500, 0x9f, 0, 0, 0, 0, 0x42]),
    (v4(202, 12, 27, 33), [0x2001, 0xdc3, 0, 0, 0, 0, 0, 0x35]),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

/// The addresses of the public root's name servers that are built in.
pub fn root_servers() -> Vec<IpAddr> {
    ROOT_SERVERS
        .into_iter()
        .flat_map(|(v4, v6)| [IpAddr::from(v4), Ipv6Addr::from(v6).into()])
        .collect()
}

/// Reads addresses of root servers from a file of hints, as `named.root` of IANA or Debian's
/// `/usr/share/dns/root.hints` is written.
///
/// # Errors
/// If it cannot be read, or with the path and line of what is wrong.
pub fn read_root_hints(path: &Path) -> Result<Vec<IpAddr>, String> {
    let shown = path.display();
    let read = || {
        let mut text = String::new();
        let file = File::open(path)?;
        file.take(MAX_FILE_LEN + 1).read_to_string(&mut text)?;
        if u64::try_from(text.len()).is_ok_and(|length| length <= MAX_FILE_LEN) {
            return Ok(text);
        }
        let error = format!("longer than {MAX_FILE_LEN} bytes");
        Err(io::Error::other(error))
    };
    let text = read().map_err(|error| format!("cannot read the root hints {shown}: {error}"))?;
    parse(&text).map_err(|Wrong { line, what }| match line {
        Some(line) => format!("{shown}:{line}: {what}"),
        None => format!("{shown}: {what}"),
    })
}

/// What is wrong with a file of hints, and in which line, from 1.
#[derive(Debug, PartialEq, Eq)]
struct Wrong {
    line: Option<usize>,
    what: String,
}

/// Reads NS records of the root and the addresses of their hosts; one record a line (RFC 1035
/// section 5.1), TTLs and the class may be there.
fn parse(text: &str) -> Result<Vec<IpAddr>, Wrong> {
    let mut hosts = HashSet::new();
    let mut addresses = Vec::new();
    let mut owner = None;
    for (line, number) in text.lines().zip(1..) {
        let wrong = |what: String| Wrong {
            line: Some(number),
            what,
        };
        let line = line.split(';').next().unwrap_or_default();
        let mut words = line.split_whitespace().peekable();
        if words.peek().is_none() {
            continue;
        }
        if !line.starts_with(char::is_whitespace) {
            owner = words.next().map(str::to_ascii_lowercase);
        }
        let Some(owner) = &owner else {
            return Err(wrong("the record has no owner".to_owned()));
        };
        if owner.starts_with('$') {
            return Err(wrong(format!("{owner} is not known here")));
        }
        let is_ttl_or_class =
            |word: &&str| word.parse::<u32>().is_ok() || word.eq_ignore_ascii_case("IN");
        while words.next_if(is_ttl_or_class).is_some() {}
        let (rtype, data, rest) = (words.next(), words.next(), words.next());
        let (Some(rtype), Some(data), None) = (rtype, data, rest) else {
            return Err(wrong("not a record: OWNER [TTL] [IN] TYPE DATA".to_owned()));
        };
        let no_address = |_| wrong(format!("{data:?} is no address of type {rtype}"));
        let address: IpAddr = match rtype.to_ascii_uppercase().as_str() {
            "NS" if owner == "." => {
                hosts.insert(data.to_ascii_lowercase());
                continue;
            }
            "NS" => return Err(wrong(format!("name servers of {owner}, not of the root"))),
            "A" => data.parse::<Ipv4Addr>().map_err(no_address)?.into(),
            "AAAA" => data.parse::<Ipv6Addr>().map_err(no_address)?.into(),
            _ => {
                return Err(wrong(format!(
                    "type {rtype}: only NS, A and AAAA are hints"
                )));
            }
        };
        addresses.push((number, owner.clone(), address));
    }
    for (number, owner, _) in &addresses {
        if !hosts.contains(owner) {
            return Err(Wrong {
                line: Some(*number),
                what: format!("{owner} is no name server of the root"),
            });
        }
    }
    let what = match addresses.len() {
        0 => "it has no address of a root server".to_owned(),
        1..=MAX_ROOT_SERVERS => return Ok(addresses.into_iter().map(|(.., ip)| ip).collect()),
        _ => format!("more than {MAX_ROOT_SERVERS} addresses"),
    };
    Err(Wrong { line: None, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_read_as_zone_files_write_them() {
        let text = "; a comment\n\n\
            .            3600000  IN  NS    A.ROOT.\n\
            . NS b.root. ; another\n\
            a.root.      3600000      A     192.0.2.1\n\
            \t IN 60 aaaa 2001:db8::1\n\
            B.ROOT. A 192.0.2.2";
        let expected: [IpAddr; 3] =
            ["192.0.2.1", "2001:db8::1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line, what) in [
            (
                ". NS a.\na. A 192.0.2",
                Some(2),
                "\"192.0.2\" is no address of type A",
            ),
            (
                ". NS a.\na. AAAA 192.0.2.1",
                Some(2),
                "no address of type AAAA",
            ),
            (
                ". NS a.\nb. A 192.0.2.1",
                Some(2),
                "b. is no name server of the root",
            ),
            (
                "com. NS a.",
                Some(1),
                "name servers of com., not of the root",
            ),
            ("\n. TXT x", Some(2), "only NS, A and AAAA"),
            (". NS", Some(1), "not a record"),
            (". NS a. b.", Some(1), "not a record"),
            (
                "$INCLUDE /etc/shadow",
                Some(1),
                "$include is not known here",
            ),
            (" NS a.", Some(1), "no owner"),
            (". NS a.", None, "no address of a root server"),
            ("", None, "no address of a root server"),
        ] {
            let wrong = parse(text).unwrap_err();
            assert_eq!(wrong.line, line, "{text:?}: {wrong:?}");
            assert!(wrong.what.contains(what), "{text:?}: {wrong:?}");
        }
    }

    #[test]
    fn more_addresses_than_a_root_has_are_refused() {
        let many: String = (0..=MAX_ROOT_SERVERS).map(|_| "a. A 192.0.2.1\n").collect();
        let wrong = parse(&format!(". NS a.\n{many}")).unwrap_err();
        assert!(wrong.what.starts_with("more than"), "{wrong:?}");
    }

    #[test]
    fn the_built_in_servers_are_26_public_addresses() {
        use crate::resolve::delegation::reach::{Reach, reach};
        let servers = root_servers();
        assert_eq!(servers.iter().collect::<HashSet<_>>().len(), 26);
        assert!(servers.iter().all(|ip| reach(*ip) == Reach::Public));
    }
}
