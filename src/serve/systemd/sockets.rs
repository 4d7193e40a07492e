//! Sockets that the service manager binds and passes on (sd_listen_fds(3)).

use std::io;
use std::net::{TcpListener, UdpSocket};

use listenfd::ListenFd;

/// The name that `FileDescriptorName=` in pkbridge.socket gives the sockets.
const SOCKET_NAME: &str = "dns";

/// The names that are accepted. Besides [`SOCKET_NAME`] those that say nothing: `unknown` stands for
/// an absent name (sd_listen_fds(3)), and the name of the socket unit is what systemd takes where
/// `FileDescriptorName=` is not set (systemd.socket(5)).
const SOCKET_NAMES: [&str; 3] = [SOCKET_NAME, "unknown", "pkbridge.socket"];

/// More inherited sockets than anybody passes. The bound keeps a wrong `LISTEN_FDS` from making
/// `listenfd` list billions of file descriptors.
const MAX_SOCKETS: usize = 1024;

/// Sockets that the service manager passed, by the name `dns`.
#[derive(Debug, Default)]
pub struct Inherited {
    /// UDP sockets, bound, not connected, non-blocking.
    pub udp: Vec<UdpSocket>,
    /// TCP sockets, listening, non-blocking.
    pub tcp: Vec<TcpListener>,
}

/// Why the sockets that the service manager passed cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// `LISTEN_FDS` is not a number, or not a sensible one.
    #[error(
        "LISTEN_FDS is `{value}`; expected the number of inherited sockets, at most {MAX_SOCKETS}"
    )]
    Count {
        /// The value of the variable.
        value: String,
    },
    /// `LISTEN_FDNAMES` does not hold one name for each socket.
    #[error("LISTEN_FDNAMES holds {names} names for {sockets} inherited sockets")]
    NameCount {
        /// How many names there are.
        names: usize,
        /// How many sockets there are.
        sockets: usize,
    },
    /// A socket has a name that says it is meant for something else.
    #[error(
        "inherited socket {index} (counted from 0) is named `{name}`; expected `{SOCKET_NAME}` \
         (FileDescriptorName={SOCKET_NAME} in the socket unit)"
    )]
    Name {
        /// The socket's place among the inherited ones, from 0.
        index: usize,
        /// Its name.
        name: String,
    },
    /// A socket is of a kind that DNS is not served on.
    #[error(
        "inherited socket {index} (counted from 0), named `{name}`, is {found}; expected a UDP \
         socket (ListenDatagram=) or a listening TCP socket (ListenStream= with Accept=no), over \
         IPv4 or IPv6"
    )]
    Kind {
        /// The socket's place among the inherited ones, from 0.
        index: usize,
        /// Its name.
        name: String,
        /// What it is instead.
        found: &'static str,
    },
    /// The system refused to tell about a socket, or to make it non-blocking.
    #[error("inherited socket {index} (counted from 0), named `{name}`, cannot be used: {source}")]
    Io {
        /// The socket's place among the inherited ones, from 0.
        index: usize,
        /// Its name.
        name: String,
        /// The system's error.
        source: io::Error,
    },
}

impl Inherited {
    /// Takes over the sockets that the environment announces (sd_listen_fds(3)); none if it
    /// announces none, or announces them to another process.
    ///
    /// Must be called once, before any thread is started, so before the async runtime:
    /// `listenfd` removes `LISTEN_FDS` and `LISTEN_PID` from the environment, which is not safe
    /// while another thread reads it. A second call finds nothing. `LISTEN_FDNAMES` stays, since
    /// removing it takes unsafe code; without the other two it means nothing to a child process.
    ///
    /// # Errors
    ///
    /// If one of the sockets is not one that DNS can be served on. None is used then: a
    /// service that silently leaves one out would not answer where its administrator expects it.
    pub fn from_env() -> Result<Inherited, InheritedError> {
        let variable = |name| {
            std::env::var_os(name).map(|value: std::ffi::OsString| value.to_string_lossy().into())
        };
        let announced = Announced {
            pid: variable("LISTEN_PID"),
            count: variable("LISTEN_FDS"),
            names: variable("LISTEN_FDNAMES"),
        };
        let names = announced.names_for(std::process::id())?;
        let mut inherited = Inherited::default();
        if names.is_empty() {
            return Ok(inherited);
        }
        let mut sockets = ListenFd::from_env();
        for (index, name) in names.into_iter().enumerate() {
            inherited.adopt(&mut sockets, index, name)?;
        }
        Ok(inherited)
    }

    /// Whether no socket was passed, so that the program binds its own.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.udp.is_empty() && self.tcp.is_empty()
    }

    /// Takes over one socket.
    fn adopt(
        &mut self,
        sockets: &mut ListenFd,
        index: usize,
        name: String,
    ) -> Result<(), InheritedError> {
        // `listenfd` compares SO_TYPE and the address family, where it takes IPv6 for IPv4 as well,
        // and leaves a socket that does not fit in place for the next attempt. It does not compare
        // the protocol, nor whether a socket listens or is connected.
        let fault = if let Ok(Some(socket)) = sockets.take_tcp_listener(index) {
            let fault = check_tcp(&socket);
            self.tcp.push(socket);
            fault
        } else if let Ok(Some(socket)) = sockets.take_udp_socket(index) {
            let fault = check_udp(&socket);
            self.udp.push(socket);
            fault
        } else {
            Ok(Some("neither a UDP nor a TCP socket"))
        };
        match fault {
            Ok(None) => Ok(()),
            Ok(Some(found)) => Err(InheritedError::Kind { index, name, found }),
            Err(source) => Err(InheritedError::Io {
                index,
                name,
                source,
            }),
        }
    }
}

/// Makes a TCP socket non-blocking; if it is not one to accept connections from, says what it is.
fn check_tcp(socket: &TcpListener) -> io::Result<Option<&'static str>> {
    socket.set_nonblocking(true)?;
    // systemd runs on Linux alone, and the options below do not exist everywhere.
    #[cfg(target_os = "linux")]
    {
        let socket = socket2::SockRef::from(socket);
        // SocketProtocol=mptcp makes a listener that takes TCP as well (systemd.socket(5)).
        if ![Some(socket2::Protocol::TCP), Some(socket2::Protocol::MPTCP)]
            .contains(&socket.protocol()?)
        {
            return Ok(Some("a stream socket of another protocol than TCP"));
        }
        if !socket.is_listener()? {
            // With Accept=yes systemd passes a connection.
            return Ok(Some("a TCP socket that does not listen"));
        }
    }
    Ok(None)
}

/// Makes a UDP socket non-blocking; if it is not one that anybody can send to, says what it is.
fn check_udp(socket: &UdpSocket) -> io::Result<Option<&'static str>> {
    socket.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    if socket2::SockRef::from(socket).protocol()? != Some(socket2::Protocol::UDP) {
        return Ok(Some("a datagram socket of another protocol than UDP"));
    }
    if socket.peer_addr().is_ok() {
        return Ok(Some("a UDP socket connected to one peer"));
    }
    if socket.local_addr()?.port() == 0 {
        return Ok(Some("a UDP socket that is not bound to a port"));
    }
    Ok(None)
}

/// What the environment says about inherited sockets.
#[derive(Debug, Default)]
struct Announced {
    /// `LISTEN_PID`: the process that they are meant for.
    pid: Option<String>,
    /// `LISTEN_FDS`: how many there are.
    count: Option<String>,
    /// `LISTEN_FDNAMES`: their names, with colons between them.
    names: Option<String>,
}

impl Announced {
    /// The name of each socket that process `own` inherits.
    fn names_for(&self, own: u32) -> Result<Vec<String>, InheritedError> {
        // As sd_listen_fds(3) has it. `listenfd` is content with an absent LISTEN_PID, but then the
        // variables may be left over from a parent process, and the descriptors something else.
        let pid = self.pid.as_deref().and_then(|pid| pid.parse().ok());
        let (Some(count), true) = (&self.count, pid == Some(own)) else {
            return Ok(Vec::new());
        };
        let sockets = match count.parse::<usize>() {
            Ok(sockets) if sockets <= MAX_SOCKETS => sockets,
            Ok(_) | Err(_) => {
                return Err(InheritedError::Count {
                    value: count.clone(),
                });
            }
        };
        let names: Vec<String> = match self.names.as_deref() {
            None | Some("") => vec!["unknown".to_owned(); sockets],
            Some(names) => names.split(':').map(str::to_owned).collect(),
        };
        if names.len() != sockets {
            return Err(InheritedError::NameCount {
                names: names.len(),
                sockets,
            });
        }
        for (index, name) in names.iter().enumerate() {
            if !SOCKET_NAMES.contains(&name.as_str()) {
                return Err(InheritedError::Name {
                    index,
                    name: name.clone(),
                });
            }
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The environment as systemd sets it for process 7.
    fn announced(count: &str, names: Option<&str>) -> Announced {
        Announced {
            pid: Some("7".to_owned()),
            count: Some(count.to_owned()),
            names: names.map(str::to_owned),
        }
    }

    #[test]
    fn no_sockets_without_variables_or_for_another_process() {
        assert!(Announced::default().names_for(7).unwrap().is_empty());
        assert!(
            announced("2", Some("dns:dns"))
                .names_for(8)
                .unwrap()
                .is_empty()
        );
        assert!(announced("0", None).names_for(7).unwrap().is_empty());
        for pid in [None, Some(String::new()), Some("x".to_owned())] {
            let announced = Announced {
                pid,
                ..announced("2", None)
            };
            assert!(announced.names_for(7).unwrap().is_empty());
        }
    }

    #[test]
    fn accepted_names() {
        let names = |names| announced("3", names).names_for(7).unwrap();
        assert_eq!(names(Some("dns:dns:dns")), ["dns"; 3]);
        assert_eq!(names(None), ["unknown"; 3]);
        assert_eq!(
            names(Some("pkbridge.socket:dns:unknown")),
            ["pkbridge.socket", "dns", "unknown"]
        );
    }

    #[test]
    fn refused_names_and_counts() {
        let error = |count, names| {
            announced(count, names)
                .names_for(7)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            error("2", Some("dns:http")),
            "inherited socket 1 (counted from 0) is named `http`; expected `dns` \
             (FileDescriptorName=dns in the socket unit)"
        );
        assert_eq!(
            error("2", Some("dns")),
            "LISTEN_FDNAMES holds 1 names for 2 inherited sockets"
        );
        for count in ["", "-1", "two", "1025", "99999999999999999999"] {
            assert!(error(count, None).contains(&format!("LISTEN_FDS is `{count}`")));
        }
    }
}
