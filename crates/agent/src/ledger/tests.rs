//! The ledger keeps what was written, and says so when it cannot.
