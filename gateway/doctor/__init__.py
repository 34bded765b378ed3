"""`gateway doctor`: is what carriers send through the public URL what arrives here?

passes.py seals and reads what makes a request the doctor's; desk.py is the running gateway's side, which says what
arrived; visits.py sends the requests; judge.py compares the two and names what is wrong.
"""
