// A reader for the few Python pickles that hold tensors and plain values (protocol 2, as torch.save
// writes them; Python's Lib/pickletools.py documents the opcodes).
//
// A pickle is a program. This one is never run: GLOBAL may only name one of a short list of
// harmless things, REDUCE may only rebuild a tensor, an OrderedDict or a torch.Size, and everything
// else is refused by name. Nothing is copied or allocated by what the pickle claims, so memory is
// bounded by a small multiple of its length.
#pragma once

#include <cstddef>
#include <span>

#include "plimsoll/result.h"
#include "record/formats/pt_value.h"

namespace plimsoll {

// Decodes the pickle that `bytes` starts with; more may follow. The bytes must outlive the Pickle.
Result<Pickle> decode_pickle(std::span<const std::byte> bytes);

}  // namespace plimsoll
