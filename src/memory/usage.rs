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

/// Keeps the allocator from holding on to what was freed. To be called before threads are started.
///
/// glibc gives threads arenas of their own, eight for each processor, and each keeps what was freed
/// in it: with some fifty threads that doubles what a busy daemon takes. Two arenas cost nothing
/// that was measured. Blocks from 512 KiB on are given back at once; without this line the bound
/// grows with the first such block that is freed. With a lower one the buffers of fast bodies (up
/// to some 400 KiB) cost more in page faults than the bytes in them cost to hash and write.
pub fn tame_allocator() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only sets the allocator's own parameters, and may be called at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 512 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 8 << 20);
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
