"""What the nudging loop is made of besides the loop itself: criteria, pieces of an answer, and blending."""
