"""Tables about the library itself: which layers and which models it covers."""
