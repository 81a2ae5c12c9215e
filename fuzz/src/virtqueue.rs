//! Fuzz target `virtqueue`: a hostile driver lays out a split ring and changes it between the device's calls. Fails when a segment lies
//! outside memory, when lengths do not add up, or when the device writes anything but the used ring.
//!
//! Input: size (power of two), bits (0 event index, 1 indirect), first available entry (u16), then operations of one byte each with
//! their arguments; see `Driver::step`.

use std::cell::RefCell;

use sumeru_virtio::eventfd::Eventfd;
use sumeru_virtio::split::MAX_SEGMENTS;
use sumeru_virtio::{Chain, GuestSlice, RingError, SplitLayout, SplitQueue};

use crate::guest::{BASE, Guest, MAX_QUEUE, Place, SIZE, descriptor};
use crate::input::Input;

thread_local! {
    static GUEST: RefCell<Guest> = RefCell::new(Guest::new());
}

/// Runs one input.
///
/// # Panics
/// When a promise of the ring is broken: that is the finding.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let size = 1 << input.below(MAX_QUEUE.ilog2() as usize + 1);
    let (bits, last_available) = (input.u8(), input.u16());
    let place = Place::new(0, size);
    let [descriptor_table, driver_area, device_area] = place.addresses();
    let layout = SplitLayout {
        size,
        descriptor_table,
        driver_area,
        device_area,
        last_available,
        event_idx: bits & 1 != 0,
        indirect: bits & 2 != 0,
    };
    GUEST.with_borrow_mut(|guest| {
        guest.clear();
        let queue = SplitQueue::new(layout, guest.memory.clone());
        let Ok(mut queue) = queue else {
            panic!("a ring inside memory was refused: {:?}", queue.err());
        };
        queue.set_events(None, Eventfd::new().ok());
        let mut driver = Driver {
            guest,
            place,
            queue,
            available: last_available,
            known: 0,
            taken: Vec::new(),
            completed: 0,
        };
        while !input.is_empty() {
            driver.step(&mut input);
        }
        driver.guest.check_untouched(&[place.used()]);
    });
}

struct Driver<'a> {
    guest: &'a mut Guest,
    place: Place,
    queue: SplitQueue,
    /// The index as the driver counts it.
    available: u16,
    /// Chains that the device knows of and has not taken.
    known: u16,
    /// Heads taken and not given back.
    taken: Vec<u16>,
    completed: u16,
}

impl Driver<'_> {
    fn step(&mut self, input: &mut Input) {
        match input.below(12) {
            0 => self.write_descriptor(input),
            1 => self.offer(input),
            2 => {
                self.available = self.available.wrapping_add(input.u16());
                self.write_index();
            }
            3 => {
                let (at, len) = (input.u16(), input.u8());
                let bytes = input.bytes(len.into());
                self.overwrite(at.into(), bytes);
            }
            4 => {
                let wanted = input.u8().into();
                let answer = self.queue.available(wanted);
                self.learn(answer);
            }
            5 => self.peek(input),
            6 => {
                let head = input.u16();
                let mut list = Vec::new();
                let chain = self.queue.chain(head, &mut list);
                self.check_chain(chain, 0, &list);
            }
            7 if !self.taken.is_empty() => {
                let head = self.taken.swap_remove(input.below(self.taken.len()));
                self.queue.complete(head, input.u32());
                self.completed = self.completed.wrapping_add(1);
            }
            8 => {
                self.queue.publish();
                let shown = self.guest.read_u16(self.place.used_index());
                assert_eq!(shown, self.queue.used_index_published());
            }
            9 => {
                self.queue.notify();
                assert!(
                    !self.queue.wants_notification(),
                    "twice for the same buffers"
                );
            }
            10 => self.queue.disarm(),
            11 => {
                let before = self.known;
                if let Ok(more) = self.queue.arm() {
                    let known = self.queue.available(0).unwrap_or(0);
                    assert_eq!(more, known > before, "{known} known, {before} before");
                    self.known = known;
                }
            }
            _ => self.queue.prefetch_descriptors(self.queue.size(), 1),
        }
    }

    /// A descriptor in the table, or in an indirect table at any alignment, mostly near something that makes sense.
    fn write_descriptor(&mut self, input: &mut Input) {
        let (table, index, how) = (input.u8(), input.u16(), input.u8());
        let at = match table {
            0..=127 => self.place.descriptor(index % self.place_size()),
            table => 0x1000 + u64::from(table & 127) * 17 + u64::from(index % 1024) * 16,
        };
        let address = match how & 3 {
            0 => input.u64(),
            _ => BASE + u64::from(input.u16()) % (SIZE as u64 + 16),
        };
        let len = match how >> 2 & 3 {
            0 => input.u32(),
            1 => u32::from(input.u8()) * 16,
            _ => input.u16().into(),
        };
        let (flags, next) = (input.u8().into(), input.u8().into());
        self.overwrite(at, &descriptor(address, len, flags, next));
    }

    fn place_size(&self) -> u16 {
        self.queue.size()
    }

    /// Writes anywhere but over the used ring, which belongs to the device.
    fn overwrite(&mut self, at: u64, bytes: &[u8]) {
        let used = self.place.used();
        if at + bytes.len() as u64 <= used.start || at >= used.end {
            self.guest.write(at, bytes);
        }
    }

    fn offer(&mut self, input: &mut Input) {
        let head = input.u16();
        let at = self.place.available(self.available);
        self.guest.write(at, &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.write_index();
    }

    fn write_index(&mut self) {
        let at = self.place.available_index();
        self.guest.write(at, &self.available.to_le_bytes());
    }

    fn learn(&mut self, answer: Result<u16, RingError>) {
        if let Ok(known) = answer {
            assert!(known <= self.queue.size());
            self.known = known;
        }
    }

    /// Looks at chains, and takes them.
    fn peek(&mut self, input: &mut Input) {
        let (count, takes) = (u16::from(input.u8()).min(self.known), input.bit());
        let mut list = Vec::new();
        let mut good = 0;
        let mut heads = Vec::new();
        for ahead in 0..count {
            let before = list.len();
            let chain = self.queue.peek(ahead, &mut list);
            self.check_chain(chain, before, &list);
            match chain {
                Ok(chain) => heads.push(chain.head),
                Err(_) => break,
            }
            good += 1;
        }
        if takes {
            self.queue.take(good);
            self.known -= good;
            self.taken.extend(heads);
        }
    }

    fn check_chain(&self, chain: Result<Chain, RingError>, before: usize, list: &[GuestSlice]) {
        let Ok(chain) = chain else {
            assert_eq!(list.len(), before, "segments of a refused chain stay");
            return;
        };
        assert!(chain.head < self.queue.size());
        assert_eq!(chain.first as usize, before);
        let count = usize::from(chain.readable) + usize::from(chain.writable);
        assert_eq!(list.len() - before, count);
        assert!(count <= usize::from(MAX_SEGMENTS));
        let total = |part: &[GuestSlice]| part.iter().map(|s| u64::from(s.len())).sum::<u64>();
        assert_eq!(total(chain.readable(list)), u64::from(chain.readable_len));
        assert_eq!(total(chain.writable(list)), u64::from(chain.writable_len));
        for slice in &list[before..] {
            assert!(!slice.is_empty() && self.guest.holds(slice), "{slice:?}");
        }
    }
}
