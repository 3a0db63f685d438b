//! Stand-ins of AWS that `tests/it` and `tests/rehearse` share. They know nothing of the program, so that a change of it
//! does not compile them again.

pub mod ec2;
