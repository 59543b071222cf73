"""From steps with rules to relevance: canonisation, propagation, compiled passes."""
