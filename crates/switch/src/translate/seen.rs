//! What a walk may say of the frame as it came, when actions have changed the key since: which of its bits are the frame's own, which follow from
//! others of the frame, which nobody knows.

use sumeru_packet::field::{EXTRA_BASE, INNER_BASE, LAYER_WORDS, LAYERS_END, OUTER_BASE};
use sumeru_packet::{FlowMask, Layer};

/// Extra words of both layers: outer and inner are neighbours.
const PAIRED: usize = EXTRA_BASE + 4;
const WORDS: usize = sumeru_packet::key::WORDS;

/// Where the bits of a walk's key come from.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Bits that an action wrote: looking at them says nothing about the frame as it came.
    overwritten: FlowMask,
    /// Bits that are not known.
    unknown: FlowMask,
    /// Bits that an action wrote from others: looking at the first says what is under the second in the frame as it came.
    derived: Vec<(FlowMask, FlowMask)>,
    /// Which layer of the frame as it came the outer and the inner one are.
    layers: [Option<Layer>; 2],
}

impl Seen {
    pub fn new() -> Self {
        // What is given by actions is the same for every frame at first.
        let mut overwritten = FlowMask::ZERO;
        (LAYERS_END..EXTRA_BASE).for_each(|word| overwritten.set_word(word, u64::MAX));
        Self {
            overwritten,
            unknown: FlowMask::ZERO,
            derived: Vec::new(),
            layers: [Some(Layer::Outer), Some(Layer::Inner)],
        }
    }

    /// Whether the outer layer is what was the inner one.
    pub fn is_decapsulated(&self) -> bool {
        self.layers[0] == Some(Layer::Inner)
    }

    /// Whether the outer layer is one of the frame as it came.
    pub fn is_own(&self) -> bool {
        self.layers[0].is_some()
    }

    /// Whether all of these bits are the frame's own.
    pub fn is_untouched(&self, bits: &FlowMask) -> bool {
        let kept = |i: usize| bits.word(i) & (self.overwritten.word(i) | self.unknown.word(i)) == 0;
        bits.active().all(|i| kept(i) && self.origin(i).is_some())
    }

    /// Whether one of these bits is not known.
    #[inline]
    pub fn is_unknown(&self, looked: &FlowMask) -> bool {
        looked
            .active()
            .any(|i| looked.word(i) & self.unknown.word(i) != 0)
    }

    /// Adds the bits of `looked` that the frame itself decides to `mask`, in terms of the frame as it came.
    #[inline]
    pub fn examine(&self, mask: &mut FlowMask, looked: &FlowMask) {
        for i in looked.active() {
            let own = looked.word(i) & !self.overwritten.word(i) & !self.unknown.word(i);
            if own != 0
                && let Some(at) = self.origin(i)
            {
                mask.set_word(at, mask.word(at) | own);
            }
        }
        for (written, from) in &self.derived {
            if looked
                .active()
                .any(|i| looked.word(i) & written.word(i) != 0)
            {
                mask.merge(from);
            }
        }
    }

    /// The word of the frame as it came that a word is.
    fn origin(&self, word: usize) -> Option<usize> {
        let (layer, place) = match word {
            OUTER_BASE..INNER_BASE => (0, word - OUTER_BASE),
            _ if (INNER_BASE..INNER_BASE + LAYER_WORDS).contains(&word) => (1, word - INNER_BASE),
            _ if (EXTRA_BASE..PAIRED).contains(&word) => {
                let layer = self.layers[word % 2]?;
                return Some(word - word % 2 + layer as usize);
            }
            _ => return Some(word),
        };
        self.layers[layer].map(|layer| layer.base() + place)
    }

    /// These bits are a constant from now on.
    pub fn write(&mut self, mask: &FlowMask) {
        for (written, _) in &mut self.derived {
            remove(written, mask);
        }
        self.derived.retain(|(written, _)| !written.is_empty());
        remove(&mut self.unknown, mask);
        self.overwritten.merge(mask);
    }

    /// These bits follow from others of the frame as it came.
    pub fn derive(&mut self, mask: &FlowMask, from: FlowMask) {
        self.write(mask);
        if !from.is_empty() {
            self.derived.push((*mask, from));
        }
    }

    /// Nobody knows these bits.
    pub fn forget(&mut self, mask: &FlowMask) {
        self.write(mask);
        self.unknown.merge(mask);
    }

    /// The key was read off the frame as it is now, and is good for this frame only.
    pub fn reset(&mut self) {
        *self = Self {
            overwritten: FlowMask::EXACT,
            ..Self::new()
        };
    }

    /// The outer layer is gone, the inner one takes its place.
    pub fn decapsulate(&mut self) {
        self.move_words(|word| match word {
            OUTER_BASE..INNER_BASE => Some(word + LAYER_WORDS),
            _ if (EXTRA_BASE..PAIRED).contains(&word) && word % 2 == 0 => Some(word + 1),
            _ => None,
        });
        self.layers = [self.layers[1], None];
    }

    /// The outer layer becomes the inner one; what stands in front of it is to be written.
    pub fn encapsulate(&mut self) {
        self.move_words(|word| match word {
            _ if (INNER_BASE..INNER_BASE + LAYER_WORDS).contains(&word) => Some(word - LAYER_WORDS),
            _ if (EXTRA_BASE..PAIRED).contains(&word) && word % 2 == 1 => Some(word - 1),
            _ => None,
        });
        self.layers = [None, self.layers[0]];
    }

    /// Takes the words of layers from where `from` says; those of nowhere are written, extra ones unknown.
    fn move_words(&mut self, from: impl Fn(usize) -> Option<usize>) {
        let moved = |mask: &FlowMask, else_layer: u64, else_extra: u64| {
            let mut out = *mask;
            for word in (OUTER_BASE..INNER_BASE + LAYER_WORDS).chain(EXTRA_BASE..WORDS) {
                let other = if word < EXTRA_BASE {
                    else_layer
                } else {
                    else_extra
                };
                out.set_word(word, from(word).map_or(other, |at| mask.word(at)));
            }
            out
        };
        self.overwritten = moved(&self.overwritten, u64::MAX, 0);
        self.unknown = moved(&self.unknown, 0, u64::MAX);
        for (written, _) in &mut self.derived {
            *written = moved(written, 0, 0);
        }
        self.derived.retain(|(written, _)| !written.is_empty());
    }
}

fn remove(from: &mut FlowMask, mask: &FlowMask) {
    for i in mask.active() {
        from.set_word(i, from.word(i) & !mask.word(i));
    }
}
