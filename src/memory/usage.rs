//! What the process takes, what the machine has, and how the allocator behaves.

/// Returns the bytes of memory that this process has in use now and has had at most.
pub fn resident() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    Some((kib(&text, "VmRSS:")?, kib(&text, "VmHWM:")?))
}

/// Returns the machine's memory in bytes.
pub(super) fn machine() -> Option<u64> {
    kib(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

/// Returns in bytes what a line such as `VmRSS:   1234 kB` says.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(number * 1024)
}

/// The ceiling from which on the allocator may keep the buffers of bodies, in bytes.
const ROOMY: u64 = 192 << 20;

/// Keeps the allocator from holding on to what was freed. To be called before threads are started.
///
/// glibc gives threads arenas of their own, eight for each processor, and each keeps what was freed
/// in it: with some fifty threads that doubles what a busy daemon takes. Two arenas cost nothing
/// that was measured. Blocks from 128 KiB on are given back at once; without this line the bound
/// grows with the first such block that is freed.
pub fn tame_allocator() {
    #[cfg(target_env = "gnu")]
    allocator(libc::M_ARENA_MAX, 2);
    give_back(128 << 10, 1 << 20);
}

/// Lets the allocator keep the buffers of fast bodies (of up to some 400 KiB) where there is room
/// under a ceiling of `bytes`: given back each time, they cost more in page faults than the bytes
/// in them cost to hash and write.
pub fn let_buffers_stay(bytes: u64) {
    if bytes >= ROOMY {
        give_back(512 << 10, 8 << 20);
    }
}

/// Has the allocator give back blocks from `block` bytes on when they are freed, and what is free
/// at the end of an arena from `end` bytes on.
#[cfg(target_env = "gnu")]
fn give_back(block: libc::c_int, end: libc::c_int) {
    allocator(libc::M_MMAP_THRESHOLD, block);
    allocator(libc::M_TRIM_THRESHOLD, end);
}

/// Other allocators than glibc's are left as they are.
#[cfg(not(target_env = "gnu"))]
fn give_back(_: libc::c_int, _: libc::c_int) {}

#[cfg(target_env = "gnu")]
fn allocator(parameter: libc::c_int, value: libc::c_int) {
    // SAFETY: mallopt only sets the allocator's own parameters, and may be called at any time.
    unsafe {
        libc::mallopt(parameter, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells() {
        let (now, most) = resident().unwrap();
        assert!(now > 1 << 20 && now <= most);
        assert!(machine().unwrap() > most);
        assert_eq!(kib("A: 1 kB\nB:\t 2 kB\n", "B:"), Some(2048));
        assert_eq!(kib("A: 1 kB\n", "B:"), None);
    }
}
