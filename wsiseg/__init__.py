"""wsiseg."""
