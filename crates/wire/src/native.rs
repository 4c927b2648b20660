//! Types of the native REST API under `/api/v1`.
