"""What the server tells about itself: figures kept in plain memory, and trace context.

Every other layer may import it, so it imports none of them. What is collected here leaves the
process by way of `app`, and only if a setting says so.
"""
