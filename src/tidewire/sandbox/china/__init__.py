"""The Chinese sites: one made-up market of A shares, told by Eastmoney, Sina, Tencent and the exchanges.

What is true is in `session`; each site has a module that puts it into that site's words and units.
"""
