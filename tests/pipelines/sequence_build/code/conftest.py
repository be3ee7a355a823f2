import pytest


@pytest.fixture
def rust_source() -> str:
    return """//! Keeps accounts, and moves money between them.

/// What an owner holds; never below zero.
#[derive(Clone)]
pub struct Account {
    pub balance: u64,
}

impl Account {
    /// Moves money to another account, or says why not.
    pub fn pay(
        &mut self,
        to: &mut Account,
        amount: u64,
    ) -> Result<(), Error> {
        Ok(())
    }
}

fn private() {}
"""
