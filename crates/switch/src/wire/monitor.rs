//! Which wires have a carrier: a thread that hears of the kernel's link changes (rtnetlink(7), `RTMGRP_LINK`) and tells what they came to.
//!
//! What a notification says is not looked at: each one makes the thread ask for the state of every interface that is watched. So none can be
//! misread, and one that the kernel had no room for is made up for by the next.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;

use super::{Interface, LinkState, WireError};
use crate::frame::PortIndex;
use crate::link::MemberId;

/// `RTMGRP_LINK` of linux/rtnetlink.h.
const LINK_GROUP: u32 = 1;

/// A wire: its port, and which of a bond's members it is (0 for a port of one wire).
pub type WireId = (PortIndex, MemberId);

/// Told what the link of a wire does, at first and whenever that changes; must not block.
pub type LinkSink = Box<dyn Fn(WireId, LinkState) + Send>;

struct Watched {
    interface: Interface,
    state: LinkState,
}

struct Wires {
    watched: BTreeMap<WireId, Watched>,
    tell: LinkSink,
}

impl Wires {
    fn look(&mut self) {
        for (id, wire) in &mut self.watched {
            let state = wire.interface.link();
            if state != wire.state {
                wire.state = state;
                (self.tell)(*id, state);
            }
        }
    }
}

/// Watches the links of wires; ends when dropped.
pub struct LinkMonitor {
    wires: Arc<Mutex<Wires>>,
    /// The thread ends when this is closed.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl LinkMonitor {
    /// Starts the thread, in the network namespace of the caller.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn start(tell: LinkSink) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Protocol 0 is NETLINK_ROUTE.
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, LINK_GROUP))?;
        let (stopped, stop) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let wires = Arc::new(Mutex::new(Wires {
            watched: BTreeMap::new(),
            tell,
        }));
        let shared = wires.clone();
        let thread = std::thread::Builder::new()
            .name("switch-links".into())
            .stack_size(128 << 10)
            .spawn(move || listen(&socket, &stopped, &shared))?;
        Ok(Self {
            wires,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Watches an interface from now on, and tells at once what its link does.
    ///
    /// # Errors
    /// [`WireError`]: there is no such interface.
    pub fn watch(&self, id: WireId, interface: &str) -> Result<(), WireError> {
        let interface = Interface::open(interface)?;
        let mut wires = lock(&self.wires);
        let state = interface.link();
        (wires.tell)(id, state);
        wires.watched.insert(id, Watched { interface, state });
        Ok(())
    }

    /// Watches the wires of a port no longer.
    pub fn forget(&self, port: PortIndex) {
        lock(&self.wires).watched.retain(|id, _| id.0 != port);
    }

    /// What the link of a wire does, if it is watched.
    pub fn state(&self, id: WireId) -> Option<LinkState> {
        lock(&self.wires).watched.get(&id).map(|wire| wire.state)
    }
}

impl Drop for LinkMonitor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends at once; if it panicked, that was said.
            let _ = thread.join();
        }
    }
}

fn lock(wires: &Mutex<Wires>) -> MutexGuard<'_, Wires> {
    wires.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(socket: &OwnedFd, stopped: &OwnedFd, wires: &Mutex<Wires>) {
    loop {
        let mut events = [
            PollFd::new(socket, PollFlags::IN),
            PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::empty()),
        ];
        match rustix::event::poll(&mut events, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "links of wires are watched no longer");
                return;
            }
        }
        if events[1]
            .revents()
            .intersects(PollFlags::HUP | PollFlags::ERR)
        {
            return;
        }
        // Everything that waits, and the error that says that some of it was lost.
        let mut bytes = [0; 4096];
        while let Ok(_) | Err(Errno::NOBUFS | Errno::INTR) =
            rustix::net::recv(socket, &mut bytes[..], RecvFlags::DONTWAIT)
        {}
        lock(wires).look();
    }
}
