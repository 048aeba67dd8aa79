"""Parts that more than one model family uses; a part moves here on its second user."""
