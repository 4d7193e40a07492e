//! The socket in the file system: who may connect, and what happens to the file at start and stop.

use std::fs::{self, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};

/// Root and the service's own user and group may connect: that takes leave to write (unix(7)).
const MODE: u32 = 0o660;
/// Connections that the kernel holds ready for `accept`: more than people and scripts open at once.
const BACKLOG: i32 = 64;

/// A bound control socket. Its file goes when this is dropped; after an abrupt end of the process it
/// stays, and the next start replaces it.
#[derive(Debug)]
pub struct ControlListener {
    socket: UnixListener,
    file: SocketFile,
}

/// A control socket that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "no control socket at {path}, so that `pkbridge status`, `flush` and `explain` do not work: {fault}"
)]
pub struct BindError {
    /// The path that was wanted.
    pub path: PathBuf,
    /// What stands against it, and what can be done.
    pub fault: BindFault,
}

/// Why a control socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindFault {
    /// There is no such directory.
    #[error("its directory is not there; make it, or set [control] socket")]
    NoDirectory,
    /// The file system says no.
    #[error("permission denied; let pkbridge write to its directory, or set [control] socket")]
    NotAllowed,
    /// Something else has the name.
    #[error("the file there is no socket; remove it, or set [control] socket")]
    NotASocket,
    /// A process is alive there.
    #[error("another process listens there; stop it, or set [control] socket")]
    InUse,
    /// Something else.
    #[error("{0}; set [control] socket to another path")]
    System(io::Error),
}

/// The file of a bound socket, removed with it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode, so that the file of another process is never removed for ours.
    id: (u64, u64),
}

impl ControlListener {
    /// Binds the socket, in place of one that a dead process left there. To be called in a tokio
    /// runtime.
    ///
    /// # Errors
    /// If there is no directory, no permission, something that is no socket, or a live process.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        bind(path).map_err(|fault| BindError {
            path: path.to_owned(),
            fault,
        })
    }

    /// [`ControlListener::bind`] for a service that runs as well without: an error is one line in the
    /// log.
    pub fn open(path: &Path) -> Option<Self> {
        match Self::bind(path) {
            Ok(listener) => {
                tracing::info!("control socket at {}", path.display());
                Some(listener)
            }
            // A service that is not run by systemd, where nobody has asked for the directory.
            Err(error) if matches!(error.fault, BindFault::NoDirectory) => {
                tracing::info!("{error}");
                None
            }
            Err(error) => {
                tracing::warn!("{error}");
                None
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// The next connection.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.socket.accept().await.map(|(stream, _)| stream)
    }
}

impl From<io::Error> for BindFault {
    fn from(error: io::Error) -> Self {
        let kind = error.kind();
        if matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory) {
            Self::NoDirectory
        } else if matches!(
            kind,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
        ) {
            Self::NotAllowed
        } else if kind == ErrorKind::AddrInUse {
            Self::InUse
        } else {
            Self::System(error)
        }
    }
}

fn bind(path: &Path) -> Result<ControlListener, BindFault> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let mut bound = socket.bind(&address);
    let is_taken = |error: &io::Error| error.kind() == ErrorKind::AddrInUse;
    if bound.as_ref().is_err_and(is_taken) {
        remove_dead(path, &address)?;
        bound = socket.bind(&address);
    }
    bound?;
    let file = SocketFile {
        path: path.to_owned(),
        id: id(&fs::symlink_metadata(path)?),
    };
    // Nobody can connect before `listen`, so the permissions that the umask gave are never in force.
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG)?;
    let socket = UnixListener::from_std(socket.into())?;
    Ok(ControlListener { socket, file })
}

/// Removes the socket of a process that is no more. Of two services that start in the same instant the
/// later may take the other's socket for dead, between its `bind` and its `listen`; only one of them
/// gets the DNS port.
fn remove_dead(path: &Path, address: &SockAddr) -> Result<(), BindFault> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(BindFault::NotASocket),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // One with a full backlog is alive, too, and must not be waited for.
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(fs::remove_file(path)?),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error.into()),
        Ok(()) | Err(_) => Err(BindFault::InUse),
    }
}

fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|found| id(&found) == self.id);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            let path = self.path.display();
            tracing::debug!(%error, "the control socket {path} stays; the next start replaces it");
        }
    }
}
