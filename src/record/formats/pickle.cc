#include "record/formats/pickle.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <map>
#include <unordered_map>

namespace plimsoll {
namespace {

// Everything a pickle may name.
enum class GlobalKind { kStorageType, kRebuildTensor, kOrderedDict, kSize };
struct GlobalInfo {
  std::string_view module;
  std::string_view name;
  GlobalKind kind;
  PtDtype dtype = PtDtype::kF32;  // of a storage type
};

constexpr std::array kGlobals = {
    GlobalInfo{"torch._utils", "_rebuild_tensor_v2", GlobalKind::kRebuildTensor},
    GlobalInfo{"collections", "OrderedDict", GlobalKind::kOrderedDict},
    GlobalInfo{"torch", "Size", GlobalKind::kSize},
    GlobalInfo{"torch", "BoolStorage", GlobalKind::kStorageType, PtDtype::kBool},
    GlobalInfo{"torch", "ByteStorage", GlobalKind::kStorageType, PtDtype::kUint8},
    GlobalInfo{"torch", "CharStorage", GlobalKind::kStorageType, PtDtype::kInt8},
    GlobalInfo{"torch", "ShortStorage", GlobalKind::kStorageType, PtDtype::kInt16},
    GlobalInfo{"torch", "IntStorage", GlobalKind::kStorageType, PtDtype::kInt32},
    GlobalInfo{"torch", "LongStorage", GlobalKind::kStorageType, PtDtype::kInt64},
    GlobalInfo{"torch", "HalfStorage", GlobalKind::kStorageType, PtDtype::kF16},
    GlobalInfo{"torch", "BFloat16Storage", GlobalKind::kStorageType, PtDtype::kBf16},
    GlobalInfo{"torch", "FloatStorage", GlobalKind::kStorageType, PtDtype::kF32},
    GlobalInfo{"torch", "DoubleStorage", GlobalKind::kStorageType, PtDtype::kF64},
};

constexpr size_t kMaxDimensions = 8;
constexpr size_t kMaxPickleBytes = UINT32_MAX;

// The ids of the values that need only one node each.
constexpr PickleId kNone = 0, kFalse = 1, kTrue = 2;

class Decoder {
 public:
  explicit Decoder(std::span<const std::byte> bytes) : bytes_(bytes) {
    pickle_.bytes = bytes;
    pickle_.nodes = {std::monostate(), false, true};
  }

  Result<Pickle> run() {
    if (bytes_.size() > kMaxPickleBytes) return unsupported("its pickle exceeds 4 GiB");
    while (!stopped_) {
      const Status done = step();
      if (!done.ok()) return done.error();
    }
    pickle_.bytes = bytes_.first(position_);
    return std::move(pickle_);
  }

 private:
  // Reading. A read past the end gives zeros and is noticed by step().
  bool overrun() const { return position_ > bytes_.size(); }
  template <typename T>
  T take() {
    T value{};
    if (bytes_.size() - std::min(position_, bytes_.size()) >= sizeof(T)) {
      std::memcpy(&value, bytes_.data() + position_, sizeof(T));
      position_ += sizeof(T);
    } else {
      position_ = bytes_.size() + 1;
    }
    return value;
  }
  std::string_view take_line();
  PickleString take_string(uint32_t size);

  // The stack. Where it lacks an operand, `broken_` is set and None stands in.
  PickleId pop();
  std::vector<PickleId> pop_to_mark();
  PickleId top();
  void push(PickleId id) { stack_.push_back(id); }
  void push_node(PickleNode node) {
    pickle_.nodes.push_back(node);
    push(static_cast<PickleId>(pickle_.nodes.size() - 1));
  }
  void push_list(std::vector<PickleId> items) {
    pickle_.lists.push_back(std::move(items));
    push_node(PickleList{static_cast<uint32_t>(pickle_.lists.size() - 1)});
  }
  void push_dict() {
    pickle_.dicts.emplace_back();
    push_node(PickleDict{static_cast<uint32_t>(pickle_.dicts.size() - 1)});
  }

  Status step();
  Status plain_value(uint8_t opcode);
  Status container(uint8_t opcode);
  Status memo(uint8_t opcode);
  Status append(const std::vector<PickleId>& items);
  Status set_items(const std::vector<PickleId>& items);
  Status push_long();
  Status push_global();
  Status push_storage();
  Status reduce();
  Status rebuild_tensor(const std::vector<PickleId>& arguments);
  Status rebuild_dict(const std::vector<PickleId>& arguments);

  Error corrupt(const std::string& what) const {
    return corrupt_file("its pickle " + what + " (byte " + std::to_string(position_) + ")");
  }
  // What a tuple or list holds; nothing where the node is neither.
  const std::vector<PickleId>* list_of(PickleId id) const {
    const auto* list = std::get_if<PickleList>(&pickle_.nodes[id]);
    return list ? &pickle_.lists[list->idx] : nullptr;
  }
  PtValue value(PickleId id) const { return PtValue(pickle_, id); }

  std::span<const std::byte> bytes_;
  size_t position_ = 0;
  bool stopped_ = false;
  bool broken_ = false;
  Pickle pickle_;
  std::vector<PickleId> stack_;
  std::vector<size_t> marks_;  // heights of the stack
  std::unordered_map<uint32_t, PickleId> memo_;
  std::map<std::string_view, uint32_t> storage_by_key_;
};

std::string_view Decoder::take_line() {
  const auto* begin = reinterpret_cast<const char*>(bytes_.data()) + position_;
  const std::string_view rest(begin, bytes_.size() - position_);
  const size_t size = rest.find('\n');
  position_ = size == rest.npos ? bytes_.size() + 1 : position_ + size + 1;
  return rest.substr(0, size);
}

PickleString Decoder::take_string(uint32_t size) {
  if (overrun() || bytes_.size() - position_ < size) {
    position_ = bytes_.size() + 1;
    return {0, 0};
  }
  position_ += size;
  return {static_cast<uint32_t>(position_ - size), size};
}

PickleId Decoder::top() {
  const size_t floor = marks_.empty() ? 0 : marks_.back();
  if (stack_.size() > floor) return stack_.back();
  broken_ = true;
  return kNone;
}

PickleId Decoder::pop() {
  const PickleId id = top();
  if (!broken_) stack_.pop_back();
  return id;
}

std::vector<PickleId> Decoder::pop_to_mark() {
  if (marks_.empty()) {
    broken_ = true;
    return {};
  }
  std::vector<PickleId> items(stack_.begin() + static_cast<ptrdiff_t>(marks_.back()), stack_.end());
  stack_.resize(marks_.back());
  marks_.pop_back();
  return items;
}

Status Decoder::step() {
  const auto opcode = take<uint8_t>();
  Status done = ok_status();
  switch (opcode) {
    case 0x80:
      take<uint8_t>();
      break;  // PROTO
    case '(':
      marks_.push_back(stack_.size());
      break;
    case '0':
      pop();
      break;
    case 'c':
      done = push_global();
      break;
    case 'Q':
      done = push_storage();
      break;
    case 'R':
      done = reduce();
      break;
    case 'q':
    case 'r':
    case 'h':
    case 'j':
      done = memo(opcode);
      break;
    case ']':
    case ')':
    case '}':
    case 't':
    case 0x85:
    case 0x86:
    case 0x87:
    case 'a':
    case 'e':
    case 's':
    case 'u':
      done = container(opcode);
      break;
    case '.':
      pickle_.root = pop();
      stopped_ = true;
      break;
    default:
      done = plain_value(opcode);
  }
  if (overrun()) return corrupt_file("its pickle ends in the middle; the file is truncated");
  if (broken_) return corrupt("takes a value from an empty stack");
  return done;
}

Status Decoder::plain_value(uint8_t opcode) {
  switch (opcode) {
    case 'N':
      push(kNone);
      break;
    case 0x88:
      push(kTrue);
      break;
    case 0x89:
      push(kFalse);
      break;
    case 'J':
      push_node(int64_t{take<int32_t>()});
      break;
    case 'K':
      push_node(int64_t{take<uint8_t>()});
      break;
    case 'M':
      push_node(int64_t{take<uint16_t>()});
      break;
    case 0x8a:
      return push_long();
    case 'G': {
      uint64_t bits = 0;  // big-endian
      for (int i = 0; i < 8; ++i) bits = bits << 8 | take<uint8_t>();
      push_node(std::bit_cast<double>(bits));
      break;
    }
    case 'X':
      push_node(take_string(take<uint32_t>()));
      break;
    default: {
      constexpr char kDigits[] = "0123456789abcdef";
      return unsupported(std::string("its pickle has opcode 0x") + kDigits[opcode >> 4] +
                         kDigits[opcode & 15] + " at byte " + std::to_string(position_ - 1) +
                         ", which tensors and plain values in protocol 2 never need; write it "
                         "with torch.save and its default pickle protocol");
    }
  }
  return ok_status();
}

// LONG1: a byte's count of little-endian bytes, two's complement.
Status Decoder::push_long() {
  const auto size = take<uint8_t>();
  if (size > 8) return corrupt("has an integer of more than 64 bits");
  uint64_t bits = 0;
  for (int i = 0; i < size; ++i) bits |= uint64_t{take<uint8_t>()} << (8 * i);
  if (size > 0 && size < 8 && (bits >> (8 * size - 1)) != 0) bits |= ~uint64_t{0} << (8 * size);
  push_node(static_cast<int64_t>(bits));
  return ok_status();
}

Status Decoder::container(uint8_t opcode) {
  switch (opcode) {
    case ']':
    case ')':
      push_list({});
      break;
    case '}':
      push_dict();
      break;
    case 't':
      push_list(pop_to_mark());
      break;
    case 0x85:
    case 0x86:
    case 0x87: {
      std::vector<PickleId> items(opcode - 0x84);
      for (size_t i = items.size(); i-- > 0;) items[i] = pop();
      push_list(std::move(items));
      break;
    }
    case 'a':
      return append({pop()});
    case 'e':
      return append(pop_to_mark());
    case 's': {
      const PickleId value = pop();
      const PickleId key = pop();
      return set_items({key, value});
    }
    default:
      return set_items(pop_to_mark());
  }
  return ok_status();
}

Status Decoder::append(const std::vector<PickleId>& items) {
  const auto* list = std::get_if<PickleList>(&pickle_.nodes[top()]);
  if (!list) return corrupt("appends to something that is no list");
  auto& target = pickle_.lists[list->idx];
  target.insert(target.end(), items.begin(), items.end());
  return ok_status();
}

Status Decoder::set_items(const std::vector<PickleId>& items) {
  const auto* dict = std::get_if<PickleDict>(&pickle_.nodes[top()]);
  if (!dict || items.size() % 2 != 0) return corrupt("sets items of something that is no dict");
  auto& target = pickle_.dicts[dict->idx];
  for (size_t i = 0; i < items.size(); i += 2) {
    if (!value(items[i]).as_string() && !value(items[i]).as_int()) {
      return corrupt("has a dict key that is neither a string nor an integer");
    }
    target.emplace_back(items[i], items[i + 1]);
  }
  return ok_status();
}

Status Decoder::memo(uint8_t opcode) {
  const bool is_long = opcode == 'r' || opcode == 'j';
  const uint32_t idx = is_long ? take<uint32_t>() : take<uint8_t>();
  if (opcode == 'q' || opcode == 'r') {
    memo_[idx] = top();
    return ok_status();
  }
  const auto found = memo_.find(idx);
  if (found == memo_.end()) return corrupt("recalls a value that it never stored");
  push(found->second);
  return ok_status();
}

Status Decoder::push_global() {
  const std::string_view module = take_line();
  const std::string_view name = overrun() ? "" : take_line();
  if (overrun()) return ok_status();  // step() says so
  const auto* found = std::ranges::find_if(kGlobals, [&](const GlobalInfo& global) {
    return global.module == module && global.name == name;
  });
  if (found == kGlobals.end()) {
    return unsupported("its pickle asks for the Python object " + printable(module) + "." +
                       printable(name) +
                       "; only tensors and plain values are read, and nothing "
                       "was executed");
  }
  push_node(PickleGlobal{static_cast<uint32_t>(found - kGlobals.begin())});
  return ok_status();
}

// BINPERSID: ('storage', its type, its key, the device it was on, its number of elements).
Status Decoder::push_storage() {
  const std::vector<PickleId>* id = list_of(pop());
  if (!id || id->size() < 5 || value((*id)[0]).as_string() != "storage") {
    return corrupt("refers to something outside that is no storage");
  }
  const auto* type = std::get_if<PickleGlobal>(&pickle_.nodes[(*id)[1]]);
  const auto key = value((*id)[2]).as_string();
  const auto num_elements = value((*id)[4]).as_int();
  if (!type || kGlobals[type->idx].kind != GlobalKind::kStorageType || !key || !num_elements ||
      *num_elements < 0) {
    return corrupt("describes a storage without type, key or size");
  }
  const PtDtype dtype = kGlobals[type->idx].dtype;
  const auto [known, is_new] =
      storage_by_key_.emplace(*key, static_cast<uint32_t>(pickle_.storages.size()));
  if (is_new) pickle_.storages.push_back({dtype, std::string(*key), *num_elements, {}});
  const PtStorage& storage = pickle_.storages[known->second];
  if (storage.dtype != dtype || storage.num_elements != *num_elements) {
    return corrupt("describes storage " + printable(*key) + " in two ways");
  }
  push_node(PickleStorage{known->second});
  return ok_status();
}

Status Decoder::reduce() {
  const std::vector<PickleId>* arguments = list_of(pop());
  const auto* function = std::get_if<PickleGlobal>(&pickle_.nodes[pop()]);
  if (!arguments || !function) return corrupt("calls something that is no function");
  switch (kGlobals[function->idx].kind) {
    case GlobalKind::kRebuildTensor:
      return rebuild_tensor(*arguments);
    case GlobalKind::kOrderedDict:
      return rebuild_dict(*arguments);
    case GlobalKind::kSize:
      if (arguments->size() != 1 || !list_of(arguments->front())) {
        return corrupt("makes a torch.Size of something else than a tuple");
      }
      push(arguments->front());
      return ok_status();
    case GlobalKind::kStorageType:
      break;
  }
  return corrupt("calls a storage type");
}

// OrderedDict() or OrderedDict([(key, value), ...]).
Status Decoder::rebuild_dict(const std::vector<PickleId>& arguments) {
  std::vector<PickleId> items;
  const std::vector<PickleId>* pairs = arguments.empty() ? nullptr : list_of(arguments.front());
  if (arguments.size() > 1 || (arguments.size() == 1 && !pairs)) {
    return corrupt("makes an OrderedDict of something else than a list of pairs");
  }
  for (size_t i = 0; pairs && i < pairs->size(); ++i) {
    const std::vector<PickleId>* pair = list_of((*pairs)[i]);
    if (!pair || pair->size() != 2) return corrupt("makes an OrderedDict of what are no pairs");
    items.insert(items.end(), pair->begin(), pair->end());
  }
  push_dict();
  return set_items(items);
}

// _rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks[, metadata])
Status Decoder::rebuild_tensor(const std::vector<PickleId>& arguments) {
  const auto* storage = arguments.size() < 6 || arguments.size() > 7
                            ? nullptr
                            : std::get_if<PickleStorage>(&pickle_.nodes[arguments[0]]);
  const auto* shape = storage ? list_of(arguments[2]) : nullptr;
  const auto* strides = storage ? list_of(arguments[3]) : nullptr;
  const auto offset = storage ? value(arguments[1]).as_int() : std::nullopt;
  if (!shape || !strides || !offset || *offset < 0 || shape->size() != strides->size() ||
      shape->size() > kMaxDimensions) {
    return corrupt("rebuilds a tensor without storage, offset, shape and strides");
  }
  const int64_t available = pickle_.storages[storage->idx].num_elements;
  PtTensor tensor{static_cast<int>(storage->idx), *offset, {}, {}};
  const int64_t max_elements = std::max(available, kMaxExpandedElements);
  const bool is_empty =
      std::ranges::any_of(*shape, [&](PickleId s) { return value(s).as_int() == 0; });
  int64_t num_elements = 1;
  int64_t last = *offset;  // the element furthest into the storage
  bool fits = *offset <= available;
  for (size_t d = 0; d < shape->size(); ++d) {
    const int64_t size = value((*shape)[d]).as_int().value_or(-1);
    const int64_t stride = value((*strides)[d]).as_int().value_or(-1);
    if (size < 0 || stride < 0) return corrupt("rebuilds a tensor of a negative size or stride");
    fits = fits && size <= max_elements && (size == 0 || num_elements <= max_elements / size) &&
           (is_empty || size <= 1 || stride <= available / (size - 1));
    if (!fits) break;
    num_elements *= size;
    if (size > 1) last += stride * (size - 1);
    fits = is_empty || last <= available;
    tensor.shape.push_back(size);
    tensor.strides.push_back(size > 1 ? stride : 0);
  }
  if (!fits || (num_elements > 0 && last >= available)) {
    return corrupt("rebuilds a tensor larger than its storage of " + std::to_string(available) +
                   " elements");
  }
  pickle_.tensors.push_back(std::move(tensor));
  push_node(PickleTensor{static_cast<uint32_t>(pickle_.tensors.size() - 1)});
  return ok_status();
}

}  // namespace

Result<Pickle> decode_pickle(std::span<const std::byte> bytes) {
  return Decoder(bytes).run();
}

}  // namespace plimsoll
