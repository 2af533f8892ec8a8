//! SFTP, on OpenSSH's server.
