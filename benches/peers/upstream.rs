//! The resolver that everybody forwards to: it knows one address for every name.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use socket2::SockRef;

const HEADER_LEN: usize = 12;
/// A record whose owner is the question's name: A, IN, TTL 300, 192.0.2.1.
const RECORD: [u8; 16] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, 1];
/// Room for what has come and is not yet read, so that nothing is lost on this side; the kernel may
/// give less.
const RECEIVE_BUFFER_LEN: usize = 4 << 20;
/// An OPT without options that offers 1232 bytes.
const OPT: [u8; 11] = [0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0];

/// An upstream on loopback, over UDP and TCP, in threads of its own until the process ends.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicU64>,
}

impl Upstream {
    pub(crate) fn start() -> Self {
        let (socket, listener) = loop {
            let socket = socket();
            if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()) {
                break (socket, listener);
            }
        };
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(AtomicU64::new(0));
        let (of_udp, of_tcp) = (Arc::clone(&asked), Arc::clone(&asked));
        thread::spawn(move || serve(&socket, &of_udp));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, asked) = (stream.unwrap(), Arc::clone(&of_tcp));
                // It ends with the connection, whatever ends that.
                thread::spawn(move || serve_stream(stream, &asked));
            }
        });
        Self { address, asked }
    }

    /// Queries that have come so far.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

/// A socket on any port of loopback.
pub(crate) fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let buffer = SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER_LEN);
    buffer.unwrap();
    socket
}

fn serve(socket: &UdpSocket, asked: &AtomicU64) {
    let mut buffer = [0; 1500];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).unwrap();
        asked.fetch_add(1, Ordering::Relaxed);
        let Some(length) = answer(&mut buffer, length) else {
            continue;
        };
        // A client that has gone away is no concern of ours.
        let _ = socket.send_to(&buffer[..length], client);
    }
}

fn serve_stream(mut stream: TcpStream, asked: &AtomicU64) -> std::io::Result<()> {
    let mut buffer = [0; 1500];
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let length = usize::from(u16::from_be_bytes(length)).min(buffer.len());
        stream.read_exact(&mut buffer[..length])?;
        asked.fetch_add(1, Ordering::Relaxed);
        if let Some(length) = answer(&mut buffer, length) {
            let framed = [
                &u16::try_from(length).unwrap().to_be_bytes(),
                &buffer[..length],
            ]
            .concat();
            stream.write_all(&framed)?;
        }
    }
}

/// Turns a query into its answer in place; the length of the answer.
fn answer(buffer: &mut [u8], length: usize) -> Option<usize> {
    let query = buffer.get(HEADER_LEN..length)?;
    let mut at = 0;
    loop {
        match usize::from(*query.get(at)?) {
            0 => break,
            label => at += label + 1,
        }
    }
    let has_opt = buffer[11] != 0;
    // QR, RD and RA; one question and one answer.
    buffer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, u8::from(has_opt)]);
    let mut end = HEADER_LEN + at + 5;
    let mut push = |bytes: &[u8]| {
        buffer[end..end + bytes.len()].copy_from_slice(bytes);
        end += bytes.len();
    };
    push(&RECORD);
    if has_opt {
        push(&OPT);
    }
    Some(end)
}
